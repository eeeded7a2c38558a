"""Normalisation layers, with the statistics that the graph stores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from robustbench_local.models.onnx_graph.operator_table import (
    Inputs,
    OnnxNode,
    find_optional,
    register_operator,
    require_input,
)

_DEFAULT_EPSILON = 1e-5


@register_operator("BatchNormalization")
def normalize_batch(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Normalise by stored means and variances."""
    if node.get("training_mode", 0):
        raise node.make_refusal("training_mode, so that answers depend on the batch")
    images, scale, bias, mean, variance = (require_input(inputs, index) for index in range(5))
    epsilon = node.get("epsilon", _DEFAULT_EPSILON)
    return functional.batch_norm(images, mean, variance, scale, bias, training=False, eps=epsilon)


@register_operator("InstanceNormalization")
def normalize_instances(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Normalise each channel of each image."""
    images, scale, bias = (require_input(inputs, index) for index in range(3))
    return _normalize_axes_values(images, list(range(2, images.ndim)), node) * _reshape_to_channels(
        scale, images
    ) + _reshape_to_channels(bias, images)


@register_operator("GroupNormalization")
def normalize_groups(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Normalise groups of channels; before opset 21, scale and bias are one a group."""
    images, scale, bias = (require_input(inputs, index) for index in range(3))
    groups = node.get("num_groups")
    if node.opset < 21:
        scale, bias = (part.repeat_interleave(images.shape[1] // groups) for part in (scale, bias))
    return functional.group_norm(images, groups, scale, bias, node.get("epsilon", _DEFAULT_EPSILON))


@register_operator("LayerNormalization")
def normalize_layer(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Normalise over all axes from one on."""
    values, scale, bias = require_input(inputs, 0), require_input(inputs, 1), find_optional(inputs, 2)
    normalized = _normalize_axes_values(values, _find_last_axes(node, values), node) * scale
    return normalized if bias is None else normalized + bias


@register_operator("RMSNormalization", "SimplifiedLayerNormalization")
def normalize_root_mean_square(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Divide by the root of the mean square over all axes from one on."""
    values, scale = require_input(inputs, 0), require_input(inputs, 1)
    squares = values.square().mean(dim=_find_last_axes(node, values), keepdim=True)
    return values * torch.rsqrt(squares + node.get("epsilon", _DEFAULT_EPSILON)) * scale


@register_operator("MeanVarianceNormalization")
def normalize_mean_variance(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Normalise over the axes given."""
    values = require_input(inputs, 0)
    axes = node.get("axes") or [0, 2, 3]
    centred = values - values.mean(dim=axes, keepdim=True)
    deviation = centred.square().mean(dim=axes, keepdim=True).sqrt()
    return centred / (deviation + 1e-9)


@register_operator("LpNormalization")
def normalize_norm(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Divide by the p-norm along an axis."""
    values, axis = require_input(inputs, 0), node.get("axis", -1)
    norm = torch.linalg.vector_norm(values, ord=node.get("p", 2), dim=axis, keepdim=True)
    return torch.where(norm == 0, values, values / norm.clamp_min(torch.finfo(values.dtype).tiny))


@register_operator("LRN")
def normalize_local_response(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Divide by the squares of neighbouring channels."""
    images, size = require_input(inputs, 0), int(node.get("size"))
    before = (size - 1) // 2
    rows = images.square().flatten(2).transpose(1, 2)
    sums = functional.avg_pool1d(functional.pad(rows, (before, size - 1 - before)), size, 1) * size
    sums = sums.transpose(1, 2).reshape(images.shape)
    scale = float(node.get("bias", 1.0)) + float(node.get("alpha", 1e-4)) / size * sums
    return images / scale ** float(node.get("beta", 0.75))


@register_operator("Dropout")
def pass_dropout(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Return the values: dropout does nothing outside of training."""
    training = find_optional(inputs, 2)
    if training is not None and bool(training.any()):
        raise node.make_refusal("training_mode, so that answers are random")
    return require_input(inputs, 0)


def _find_last_axes(node: OnnxNode, values: Tensor) -> list[int]:
    axis = node.get("axis", -1)
    return list(range(axis + values.ndim if axis < 0 else axis, values.ndim))


def _normalize_axes_values(values: Tensor, axes: Sequence[int], node: OnnxNode) -> Tensor:
    centred = values - values.mean(dim=list(axes), keepdim=True)
    variance = centred.square().mean(dim=list(axes), keepdim=True)
    return centred * torch.rsqrt(variance + node.get("epsilon", _DEFAULT_EPSILON))


def _reshape_to_channels(values: Tensor, images: Tensor) -> Tensor:
    """Give one value a channel the shape of images."""
    return values.reshape(-1, *[1] * (images.ndim - 2))
