"""Resizing of axes, as one matrix an axis: nearest, linear and cubic, with or without antialiasing."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from robustbench_local.models.onnx_graph.operator_table import (
    Inputs,
    OnnxNode,
    find_optional,
    normalize_axes,
    register_operator,
    require_input,
)

_Kernel = Callable[[np.ndarray], np.ndarray]
_NEAREST: dict[str, _Kernel] = {
    "round_prefer_floor": lambda place: np.ceil(place - 0.5),
    "round_prefer_ceil": lambda place: np.floor(place + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


@register_operator("Resize", "Upsample")
def resize_axes(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Resize the axes of a tensor by scales or to sizes.

    Source: the ONNX specification of Resize, opset 19.
    """
    values = require_input(inputs, 0)
    mode = node.get("mode", "nearest")
    place_rule = node.get("coordinate_transformation_mode", "half_pixel")
    if node.operator == "Upsample" or node.opset < 11:
        place_rule, nearest = "asymmetric", "floor"
    else:
        nearest = node.get("nearest_mode", "round_prefer_floor")
    if place_rule == "tf_crop_and_resize":
        raise node.make_refusal(place_rule)
    for axis, size, scale in _find_targets(node, inputs, values):
        if size == values.shape[axis] and scale == 1:
            continue
        if mode == "nearest":
            matrix = _make_nearest_matrix(values.shape[axis], size, scale, place_rule, nearest)
        else:
            matrix = _make_matrix(
                values.shape[axis],
                size,
                scale,
                place_rule,
                node.get("cubic_coeff_a", -0.75) if mode == "cubic" else None,
                is_antialiased=bool(node.get("antialias", 0)),
                is_cut=bool(node.get("exclude_outside", 0)),
            )
        weights = torch.from_numpy(matrix).to(values)
        values = (values.movedim(axis, -1) @ weights.T).movedim(-1, axis)
    return values


def _find_targets(node: OnnxNode, inputs: Inputs, values: Tensor) -> list[tuple[int, int, float]]:
    """Return each axis with its new size, and its scale."""
    index = 1 if node.operator == "Upsample" or node.opset < 11 else 2
    scales, sizes = find_optional(inputs, index), find_optional(inputs, 3)
    axes = normalize_axes(node.get("axes") or range(values.ndim), values.ndim)
    old = [values.shape[axis] for axis in axes]
    if node.get("scales") is not None:
        factors = [float(scale) for scale in node.get("scales")]
    elif scales is not None and scales.numel():
        factors = [float(scale) for scale in scales.tolist()]
    else:
        new = [int(size) for size in require_input(inputs, 3).tolist()] if sizes is not None else []
        policy = node.get("keep_aspect_ratio_policy", "stretch")
        factors = [size / was for size, was in zip(new, old, strict=True)]
        if policy != "stretch":
            factors = [(min if policy == "not_larger" else max)(factors)] * len(factors)
            new = [math.floor(factor * was + 0.5) for factor, was in zip(factors, old, strict=True)]
        return list(zip(axes, new, factors, strict=True))
    new = [math.floor(was * factor) for was, factor in zip(old, factors, strict=True)]
    return list(zip(axes, new, factors, strict=True))


def _find_places(old: int, new: int, scale: float, rule: str) -> np.ndarray:
    """Return where each new value lies on the old axis."""
    index, factor = np.arange(new, dtype=np.float32), np.float32(scale)  # as onnxruntime computes them
    if rule == "asymmetric":
        return index / factor
    if rule == "align_corners":
        return index * ((old - 1) / (new - 1)) if new > 1 else index * 0
    if rule == "pytorch_half_pixel" and new == 1:
        return index * 0
    if rule == "tf_half_pixel_for_nn":
        return (index + 0.5) / factor
    places = (index + np.float32(0.5)) / factor - np.float32(0.5)
    if rule == "half_pixel_symmetric":
        places += old / 2 * (1 - new / (old * factor))
    return places


@lru_cache(maxsize=256)
def _make_nearest_matrix(old: int, new: int, scale: float, rule: str, nearest: str) -> np.ndarray:
    """Return which old value each new one is, (new, old)."""
    places = np.clip(_NEAREST[nearest](_find_places(old, new, scale, rule)), 0, old - 1)
    matrix = np.zeros((new, old), dtype=np.float32)
    matrix[np.arange(new), places.astype(int)] = 1
    return matrix


@lru_cache(maxsize=256)
def _make_matrix(
    old: int, new: int, scale: float, rule: str, cubic: float | None, *, is_antialiased: bool, is_cut: bool
) -> np.ndarray:
    """Return the weight of each old value in each new one, (new, old).

    Args:
        old: Size of the axis.
        new: Its new size.
        scale: The scale.
        rule: Where new values lie on the old axis.
        cubic: Coefficient of the cubic kernel; None for the linear one.
        is_antialiased: Widen the kernel when shrinking.
        is_cut: Leave out places outside of the axis, instead of repeating its border.
    """
    places = _find_places(old, new, scale, rule)
    stretch = min(scale, 1.0) if is_antialiased else 1.0
    reach = math.ceil((1 if cubic is None else 2) / stretch) + 1
    if cubic is None and not is_antialiased:
        places = np.clip(places, 0, old - 1)
    offsets = np.floor(places)[:, None] + np.arange(-reach, reach + 1)[None]
    distances = np.abs(places[:, None] - offsets) * stretch
    weights = np.clip(1 - distances, 0, None) if cubic is None else _weigh_cubic(distances, cubic)
    outside = (offsets < 0) | (offsets >= old)
    if is_cut:
        weights = np.where(outside, 0, weights)
    weights = weights / weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((new, old))
    rows = np.broadcast_to(np.arange(new)[:, None], offsets.shape)
    np.add.at(matrix, (rows, np.clip(offsets, 0, old - 1).astype(int)), weights)
    return matrix.astype(np.float32)


def _weigh_cubic(distances: np.ndarray, a: float) -> np.ndarray:
    """Return the cubic kernel of Keys 1981 at distances of at least 0."""
    near = ((a + 2) * distances - (a + 3)) * distances**2 + 1
    far = ((a * distances - 5 * a) * distances + 8 * a) * distances - 4 * a
    return np.where(distances <= 1, near, np.where(distances < 2, far, 0))
