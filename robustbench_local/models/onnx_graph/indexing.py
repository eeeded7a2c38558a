"""Operators that pick or write values at places that a tensor holds."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from robustbench_local.models.onnx_graph.operator_table import (
    Inputs,
    OnnxNode,
    normalize_axes,
    read_integers,
    register_operator,
    require_input,
)

_SCATTER_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@register_operator("Gather")
def gather_slices(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Pick whole slices of an axis."""
    values, axis = require_input(inputs, 0), node.get("axis", 0)
    axis = axis + values.ndim if axis < 0 else axis
    indices = _wrap_indices(require_input(inputs, 1), values, axis)
    picked = values.index_select(axis, indices.reshape(-1))
    return picked.reshape((*values.shape[:axis], *indices.shape, *values.shape[axis + 1 :]))


@register_operator("GatherElements")
def gather_elements(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Pick one value for each index."""
    values, axis = require_input(inputs, 0), node.get("axis", 0)
    return values.gather(axis, _wrap_indices(require_input(inputs, 1), values, axis))


@register_operator("GatherND")
def gather_places(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Pick slices by several indices at once, for each image of a batch apart where the node says so."""
    values, indices, batch = require_input(inputs, 0), require_input(inputs, 1), node.get("batch_dims", 0)
    shape = indices.shape[:-1]
    rows = values.reshape(-1, *values.shape[batch:]) if batch else values[None]
    places = indices.reshape(len(rows), -1, indices.shape[-1]).to(values.device)
    first = torch.arange(len(rows), device=values.device)[:, None]
    picked = rows[(first, *places.unbind(-1))]
    return picked.reshape((*shape, *rows.shape[1 + indices.shape[-1] :]))


@register_operator("ScatterElements", "Scatter")
def scatter_elements(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Write one value for each index."""
    values, updates, axis = require_input(inputs, 0), require_input(inputs, 2), node.get("axis", 0)
    indices, reduction = _wrap_indices(require_input(inputs, 1), values, axis), node.get("reduction", "none")
    if reduction == "none":
        return values.scatter(axis, indices, updates)
    return values.scatter_reduce(axis, indices, updates, _SCATTER_REDUCTIONS[reduction])


@register_operator("ScatterND")
def scatter_places(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Write slices by several indices at once."""
    values, indices, updates = (require_input(inputs, index) for index in range(3))
    reduction = node.get("reduction", "none")
    if reduction not in ("none", "add"):
        raise node.make_refusal(f"the reduction {reduction}")
    places = tuple(place.to(values.device) for place in indices.unbind(-1))
    return values.index_put(places, updates, accumulate=reduction == "add")


@register_operator("Slice")
def slice_axes(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Cut ranges out of axes, forwards or backwards."""
    values = require_input(inputs, 0)
    starts = read_integers(node, inputs, "starts", 1) or []
    ends = read_integers(node, inputs, "ends", 2) or []
    axes = read_integers(node, inputs, "axes", 3) or list(range(len(starts)))
    steps = read_integers(node, inputs, "steps", 4) or [1] * len(starts)
    for axis, start, end, step in zip(normalize_axes(axes, values.ndim), starts, ends, steps, strict=True):
        places = range(values.shape[axis])[slice(start, end, step)]
        if step == 1:
            values = values.narrow(axis, places.start, len(places))
        else:
            values = values.index_select(axis, torch.tensor(list(places), device=values.device).long())
    return values


@register_operator("NonZero")
def find_nonzero(node: OnnxNode, inputs: Inputs) -> Tensor:  # noqa: ARG001
    """Return the places of values that are not 0, one a column."""
    return torch.nonzero(require_input(inputs, 0)).T


@register_operator("GridSample")
def sample_grid(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Sample images at the places of a grid."""
    images, grid = require_input(inputs, 0), require_input(inputs, 1)
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(node.get("mode", ""), node.get("mode", "bilinear"))
    return functional.grid_sample(
        images,
        grid,
        mode=mode,
        padding_mode=node.get("padding_mode", "zeros"),
        align_corners=bool(node.get("align_corners", 0)),
    )


@register_operator("AffineGrid")
def make_affine_grid(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Make the grid of an affine map."""
    size = read_integers(node, inputs, "size", 1) or []
    return functional.affine_grid(
        require_input(inputs, 0), size, align_corners=bool(node.get("align_corners", 0))
    )


def _wrap_indices(indices: Tensor, values: Tensor, axis: int) -> Tensor:
    """Return indices counted from 0, as torch wants them."""
    indices = indices.to(device=values.device, dtype=torch.int64)
    return torch.where(indices < 0, indices + values.shape[axis], indices)
