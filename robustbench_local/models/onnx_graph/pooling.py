"""Pooling: windows of any padding, stride and dilation, with the ceiling rule of onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from robustbench_local.models.onnx_graph.convolutions import find_pads, flatten_pads
from robustbench_local.models.onnx_graph.operator_table import (
    Inputs,
    OnnxNode,
    register_operator,
    require_input,
)

_MAX_POOLS: dict[int, Any] = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_AVERAGE_POOLS: dict[int, Any] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}


@register_operator("MaxPool")
def compute_max_pool(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Compute the largest value of each window; its place is not computed."""
    images = require_input(inputs, 0)
    sizes, strides, dilations = _read_window(node, images)
    begins, ends, extra = _find_window_pads(node, images.shape[2:], sizes, strides, dilations)
    values = images if images.is_floating_point() else images.float()
    ends = [end + more for end, more in zip(ends, extra, strict=True)]
    if any(begins) or any(ends):
        values = functional.pad(values, flatten_pads(begins, ends), value=-torch.inf)
    pooled: Tensor = _MAX_POOLS[len(sizes)](values, sizes, strides, dilation=dilations)
    return pooled.to(images.dtype)


@register_operator("AveragePool")
def compute_average_pool(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Compute the mean of each window; padding counts only where the node says so."""
    images = require_input(inputs, 0)
    sizes, strides, dilations = _read_window(node, images)
    if any(step != 1 for step in dilations):
        raise node.make_refusal("dilations")
    begins, ends, extra = _find_window_pads(node, images.shape[2:], sizes, strides, dilations)
    pool = _AVERAGE_POOLS[len(sizes)]
    if not any(begins) and not any(ends) and not any(extra):
        return pool(images, sizes, strides)  # type: ignore[no-any-return]
    inside = torch.ones_like(images[:1, :1])
    if node.get("count_include_pad", 0):
        inside = functional.pad(inside, flatten_pads(begins, ends), value=1.0)
        inside = functional.pad(inside, flatten_pads([0] * len(extra), extra))
    else:
        inside = functional.pad(inside, _join_pads(begins, ends, extra))
    padded = functional.pad(images, _join_pads(begins, ends, extra))
    return pool(padded, sizes, strides) / pool(inside, sizes, strides)  # type: ignore[no-any-return]


@register_operator("LpPool")
def compute_norm_pool(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Compute the p-norm of each window."""
    images, power = require_input(inputs, 0), node.get("p", 2)
    sizes, strides, dilations = _read_window(node, images)
    if any(step != 1 for step in dilations):
        raise node.make_refusal("dilations")
    begins, ends, extra = _find_window_pads(node, images.shape[2:], sizes, strides, dilations)
    padded = functional.pad(images.abs() ** power, _join_pads(begins, ends, extra))
    sums = _AVERAGE_POOLS[len(sizes)](padded, sizes, strides) * math.prod(sizes)
    return sums ** (1 / power)  # type: ignore[no-any-return]


@register_operator("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def compute_global_pool(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Pool each channel as a whole."""
    images = require_input(inputs, 0)
    axes = tuple(range(2, images.ndim))
    if node.operator == "GlobalAveragePool":
        return images.mean(dim=axes, keepdim=True)
    if node.operator == "GlobalMaxPool":
        return images.amax(dim=axes, keepdim=True)
    power = float(node.get("p", 2))
    return (images.abs() ** power).sum(dim=axes, keepdim=True) ** (1 / power)


def _read_window(node: OnnxNode, images: Tensor) -> tuple[list[int], list[int], list[int]]:
    """Return size, stride and dilation of the window in each dimension of space."""
    sizes = [int(size) for size in node.get("kernel_shape") or ()]
    if len(sizes) not in _MAX_POOLS or images.ndim != len(sizes) + 2:
        raise node.make_refusal(f"{len(sizes)} dimensions of space")
    strides = node.get("strides") or [1] * len(sizes)
    return sizes, list(strides), list(node.get("dilations") or [1] * len(sizes))


def _find_window_pads(
    node: OnnxNode,
    shape: Sequence[int],
    sizes: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[list[int], list[int], list[int]]:
    """Return the declared padding on both sides, and what the last window needs besides.

    The last is negative where no window reaches the end.
    """
    extents = [(size - 1) * step + 1 for size, step in zip(sizes, dilations, strict=True)]
    begins, ends = find_pads(node, shape, extents, strides)
    extra = []
    for size, begin, end, extent, stride in zip(shape, begins, ends, extents, strides, strict=True):
        steps = (size + begin + end - extent) / stride
        count = (math.ceil(steps) if node.get("ceil_mode", 0) else math.floor(steps)) + 1
        if (count - 1) * stride >= size + begin:
            count -= 1  # a window has to begin in the image or before it
        extra.append(max(0, (count - 1) * stride + extent - (size + begin + end)))
    return begins, ends, extra


def _join_pads(begins: Sequence[int], ends: Sequence[int], extra: Sequence[int]) -> list[int]:
    return flatten_pads(begins, [end + more for end, more in zip(ends, extra, strict=True)])
