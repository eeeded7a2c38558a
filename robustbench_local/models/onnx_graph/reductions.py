"""Operators that reduce an axis: sums, norms, and places of the largest values."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustbench_local.models.onnx_graph.operator_table import (
    Inputs,
    OnnxNode,
    normalize_axes,
    read_integers,
    register_operator,
    require_input,
)

_Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _multiply_axes(values: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        values = values.prod(dim=axis, keepdim=keep)
    return values


_REDUCTIONS: dict[str, _Reduction] = {
    "ReduceL1": lambda values, axes, keep: values.abs().sum(dim=axes, keepdim=keep),
    "ReduceL2": lambda values, axes, keep: torch.linalg.vector_norm(values, dim=axes, keepdim=keep),
    "ReduceLogSum": lambda values, axes, keep: values.sum(dim=axes, keepdim=keep).log(),
    "ReduceLogSumExp": lambda values, axes, keep: torch.logsumexp(values, dim=axes, keepdim=keep),
    "ReduceMax": lambda values, axes, keep: values.amax(dim=axes, keepdim=keep),
    "ReduceMean": lambda values, axes, keep: values.mean(dim=axes, keepdim=keep),
    "ReduceMin": lambda values, axes, keep: values.amin(dim=axes, keepdim=keep),
    "ReduceProd": _multiply_axes,
    "ReduceSum": lambda values, axes, keep: values.sum(dim=axes, keepdim=keep),
    "ReduceSumSquare": lambda values, axes, keep: values.square().sum(dim=axes, keepdim=keep),
}


@register_operator(*_REDUCTIONS)
def reduce_axes(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Reduce the axes given; without any, all of them or, where the node says so, none."""
    values, keep = require_input(inputs, 0), bool(node.get("keepdims", 1))
    axes = read_integers(node, inputs, "axes", 1)
    if not axes:
        if node.get("noop_with_empty_axes", 0):
            return values
        axes = list(range(values.ndim))
    if not axes:
        return values
    return _REDUCTIONS[node.operator](values, normalize_axes(axes, values.ndim), keep)


@register_operator("ArgMax", "ArgMin")
def find_extremes(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Return the index of the first, or last, largest or smallest value along an axis."""
    values, axis, keep = require_input(inputs, 0), int(node.get("axis", 0)), bool(node.get("keepdims", 1))
    find = torch.argmax if node.operator == "ArgMax" else torch.argmin
    if not node.get("select_last_index", 0):
        return find(values, dim=axis, keepdim=keep)
    last = find(values.flip(axis), dim=axis, keepdim=keep)
    return (values.shape[axis] - 1) - last


@register_operator("TopK")
def find_largest(node: OnnxNode, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return the largest or smallest values along an axis, and their indices."""
    values = require_input(inputs, 0)
    count = node.get("k") if node.opset < 10 else int(require_input(inputs, 1).item())
    axis, largest = node.get("axis", -1), bool(node.get("largest", 1))
    found = torch.sort(values, dim=axis, descending=largest, stable=True)  # of equal values, the first ones
    return found.values.narrow(axis, 0, count), found.indices.narrow(axis, 0, count)


@register_operator("CumSum")
def sum_cumulatively(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Return running sums along an axis."""
    values, axis = require_input(inputs, 0), int(require_input(inputs, 1).item())
    if node.get("reverse", 0):
        values = values.flip(axis)
    sums = values.cumsum(dim=axis)
    if node.get("exclusive", 0):
        sums = sums - values
    return sums.flip(axis) if node.get("reverse", 0) else sums
