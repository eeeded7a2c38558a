"""The graph that autograd recorded behind a tensor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def walk_graph(output: Tensor) -> Iterator[Any]:
    """Iterate once over every operation behind a tensor; over none if it needs no gradient."""
    visited: set[Any] = set()
    waiting: list[Any] = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        waiting += [following for following, _ in node.next_functions]
        yield node
