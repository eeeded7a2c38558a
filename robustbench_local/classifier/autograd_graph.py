"""The graph that autograd recorded behind a tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor


def walk_graph(output: Tensor, is_barrier: Callable[[Any], bool] = lambda _: False) -> Iterator[Any]:
    """Iterate once over every operation behind a tensor; over none if it needs no gradient.

    Args:
        output: The tensor.
        is_barrier: Marks operations that are left out, with everything that only they lead to.
    """
    visited: set[Any] = set()
    waiting: list[Any] = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in visited or is_barrier(node):
            continue
        visited.add(node)
        waiting += [following for following, _ in node.next_functions]
        yield node


def reaches_leaf(output: Tensor, leaf: Tensor, *, without: tuple[str, ...] = ()) -> bool:
    """Check whether a path leads from a tensor back to a leaf in the graph that autograd recorded.

    Args:
        output: The tensor.
        leaf: A leaf that requires gradients.
        without: Beginnings of the names of nodes that a path may not pass, without namespaces.
    """
    nodes = walk_graph(output, lambda node: node.name().rpartition("::")[2].startswith(without))
    return any(getattr(node, "variable", None) is leaf for node in nodes)
