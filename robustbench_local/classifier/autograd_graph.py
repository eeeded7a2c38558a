"""The graph that autograd recorded behind a tensor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def walk_graph(output: Tensor) -> Iterator[Any]:
    """Every operation behind a tensor once, whoever recorded it; none where no gradient leads there."""
    seen: set[Any] = set()
    waiting: list[Any] = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
        yield node
