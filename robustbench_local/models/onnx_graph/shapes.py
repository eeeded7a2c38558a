"""Operators that arrange values: shapes, axes, padding, constants and types."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from robustbench_local.models.onnx_graph.convolutions import flatten_pads
from robustbench_local.models.onnx_graph.operator_table import (
    Inputs,
    OnnxNode,
    find_optional,
    make_like,
    normalize_axes,
    read_integers,
    register_operator,
    require_input,
)
from robustbench_local.models.onnx_graph.tensor_types import find_torch_type

_PAD_MODES = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}


@register_operator("Shape")
def read_shape(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Return the shape, or a part of it."""
    return torch.tensor(
        require_input(inputs, 0).shape[node.get("start", 0) : node.get("end")], dtype=torch.int64
    )


@register_operator("Size")
def count_values(node: OnnxNode, inputs: Inputs) -> Tensor:  # noqa: ARG001
    """Return the number of values."""
    return torch.tensor(require_input(inputs, 0).numel())


@register_operator("Reshape")
def reshape_values(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Reshape; 0 keeps the size of an axis."""
    values, shape = require_input(inputs, 0), read_integers(node, inputs, "shape", 1) or []
    if not node.get("allowzero", 0):
        shape = [values.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    return values.reshape(tuple(shape))


@register_operator("Flatten")
def flatten_values(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Flatten to two axes, split before the one given."""
    values, axis = require_input(inputs, 0), node.get("axis", 1)
    axis = axis + values.ndim if axis < 0 else axis
    rows = int(np.prod(values.shape[:axis]))
    return values.reshape(rows, -1)


@register_operator("Transpose")
def transpose_axes(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Permute axes, by default into the reverse order."""
    values = require_input(inputs, 0)
    return values.permute(*(node.get("perm") or reversed(range(values.ndim))))


@register_operator("Squeeze")
def squeeze_axes(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Remove axes of size 1."""
    values, axes = require_input(inputs, 0), read_integers(node, inputs, "axes", 1)
    return values.squeeze() if axes is None else values.squeeze(axes)


@register_operator("Unsqueeze")
def unsqueeze_axes(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Insert axes of size 1."""
    values, axes = require_input(inputs, 0), read_integers(node, inputs, "axes", 1) or []
    for axis in sorted(normalize_axes(axes, values.ndim + len(axes))):
        values = values.unsqueeze(axis)
    return values


@register_operator("Concat", "ConcatFromSequence")
def concatenate_values(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Concatenate along an axis."""
    if node.operator == "ConcatFromSequence":
        raise node.make_refusal("a sequence of tensors")
    return torch.cat([value for value in inputs if value is not None], dim=node.get("axis", 1))


@register_operator("Split")
def split_values(node: OnnxNode, inputs: Inputs) -> Sequence[Tensor]:
    """Split along an axis, into equal parts unless sizes are given."""
    values, axis = require_input(inputs, 0), node.get("axis", 0)
    sizes = read_integers(node, inputs, "split", 1)
    if sizes is not None:
        return torch.split(values, sizes, dim=axis)
    count = node.get("num_outputs", len(node.outputs))
    return torch.split(values, -(-values.shape[axis] // count), dim=axis)


@register_operator("Expand")
def expand_values(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Broadcast with a shape."""
    values, shape = require_input(inputs, 0), read_integers(node, inputs, "shape", 1) or []
    return values.expand(torch.Size(np.broadcast_shapes(values.shape, tuple(shape))))


@register_operator("Tile")
def tile_values(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Repeat along each axis."""
    return require_input(inputs, 0).repeat(*(read_integers(node, inputs, "repeats", 1) or [1]))


@register_operator("Pad")
def pad_values(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Pad or crop each axis: by a constant, or by values of the tensor itself."""
    values = require_input(inputs, 0)
    pads = node.get("pads") or node.get("paddings") or read_integers(node, inputs, "pads", 1) or []
    axes = normalize_axes(read_integers(node, inputs, "axes", 3) or range(values.ndim), values.ndim)
    begins, ends = [0] * values.ndim, [0] * values.ndim
    for place, axis in enumerate(axes):
        begins[axis], ends[axis] = pads[place], pads[place + len(axes)]
    mode = node.get("mode", "constant")
    if mode == "constant":
        fill = find_optional(inputs, 2)
        amount = node.get("value", 0.0) if fill is None else fill.item()
        if values.dtype == torch.bool:
            return functional.pad(values.to(torch.uint8), flatten_pads(begins, ends), value=amount).bool()
        return functional.pad(values, flatten_pads(begins, ends), value=amount)
    for axis, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        if begin or end:
            values = values.index_select(axis, _find_pad_index(mode, values, axis, begin, end))
    return values


def _find_pad_index(mode: str, values: Tensor, axis: int, begin: int, end: int) -> Tensor:
    """Return which values of an axis the padded axis has."""
    size = values.shape[axis]
    index = np.arange(max(0, -begin), size - max(0, -end))
    padding = (max(0, begin), max(0, end))
    index = np.pad(index, padding, mode=_PAD_MODES[mode])  # type: ignore[call-overload]
    return torch.from_numpy(index).to(values.device)


@register_operator("DepthToSpace")
def move_depth_to_space(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Arrange channels as blocks of pixels."""
    images, size = require_input(inputs, 0), node.get("blocksize")
    count, channels, height, width = images.shape
    left = channels // size**2
    if node.get("mode", "DCR") == "DCR":
        blocks = images.reshape(count, size, size, left, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        blocks = images.reshape(count, left, size, size, height, width).permute(0, 1, 4, 2, 5, 3)
    return blocks.reshape(count, left, height * size, width * size)


@register_operator("SpaceToDepth")
def move_space_to_depth(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Arrange blocks of pixels as channels."""
    images, size = require_input(inputs, 0), node.get("blocksize")
    count, channels, height, width = images.shape
    blocks = images.reshape(count, channels, height // size, size, width // size, size)
    order = (0, 3, 5, 1, 2, 4) if node.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return blocks.permute(*order).reshape(count, channels * size**2, height // size, width // size)


@register_operator("Cast")
def cast_values(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Change the type; half precision is computed in single."""
    return require_input(inputs, 0).to(find_torch_type(node.get("to")))


@register_operator("CastLike")
def cast_like(node: OnnxNode, inputs: Inputs) -> Tensor:  # noqa: ARG001
    """Change the type to that of another tensor."""
    return require_input(inputs, 0).to(require_input(inputs, 1).dtype)


@register_operator("ConstantOfShape")
def fill_shape(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Make a tensor of one value."""
    value = node.get("value")
    shape = read_integers(node, inputs, "shape", 0) or []
    return torch.zeros(shape) if value is None else value.reshape([1] * len(shape)).expand(shape).clone()


@register_operator("Range")
def make_range(node: OnnxNode, inputs: Inputs) -> Tensor:  # noqa: ARG001
    """Make numbers from a start to a limit."""
    start, limit, step = (require_input(inputs, index) for index in range(3))
    return torch.arange(start.item(), limit.item(), step.item(), dtype=start.dtype)


@register_operator("EyeLike")
def make_identity(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Make a matrix with ones on a diagonal."""
    values, offset = require_input(inputs, 0), node.get("k", 0)
    kind = find_torch_type(node.get("dtype")) if "dtype" in node.attributes else values.dtype
    rows, columns = values.shape
    places = torch.arange(columns) - torch.arange(rows)[:, None]
    return torch.eq(places, offset).to(device=values.device, dtype=kind)


@register_operator("Trilu")
def cut_triangle(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Keep the upper or lower triangle."""
    values, diagonal = require_input(inputs, 0), find_optional(inputs, 1)
    offset = 0 if diagonal is None else int(diagonal.item())
    return values.triu(offset) if node.get("upper", 1) else values.tril(offset)


@register_operator("OneHot")
def encode_one_hot(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Encode integers as rows with one value that differs."""
    indices, depth, values = (require_input(inputs, index) for index in range(3))
    count, axis = int(depth.reshape(()).item()), node.get("axis", -1)
    axis = axis + indices.ndim + 1 if axis < 0 else axis
    wrapped = torch.remainder(indices.to(torch.int64), count)
    is_valid = (indices >= -count) & (indices < count)
    rows = functional.one_hot(wrapped, count).bool() & is_valid.unsqueeze(-1)
    off, on = make_like(values, values).unbind()
    return torch.where(rows, on, off).movedim(-1, axis)
