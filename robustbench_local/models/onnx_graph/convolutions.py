"""Linear operators: products of matrices, convolutions and attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from robustbench_local.models.onnx_graph.operator_table import (
    Inputs,
    OnnxNode,
    find_optional,
    register_elementwise,
    register_operator,
    require_input,
)

_CONVOLUTIONS: dict[int, Any] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED: dict[int, Any] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
_FUSED_ACTIVATIONS = {"": None, "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh}

_ATTENTION_ATTRIBUTES = {"is_causal", "kv_num_heads", "q_num_heads", "scale"}

register_elementwise({"MatMul": torch.matmul})


@register_operator("Einsum")
def compute_einsum(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Compute a sum of products in Einstein's notation."""
    return torch.einsum(node.get("equation"), *inputs)


@register_operator("com.microsoft.FusedMatMul")
def multiply_scaled(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Multiply matrices, transposed if wanted, and scale the product."""
    left, right = require_input(inputs, 0), require_input(inputs, 1)
    if node.get("transBatchA", 0) or node.get("transBatchB", 0):
        raise node.make_refusal("transposed batches")
    left = left.mT if node.get("transA", 0) else left
    return float(node.get("alpha", 1.0)) * (left @ (right.mT if node.get("transB", 0) else right))


@register_operator("Gemm", "com.microsoft.FusedGemm")
def compute_gemm(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Multiply two matrices and add a third."""
    left, right, bias = require_input(inputs, 0), require_input(inputs, 1), find_optional(inputs, 2)
    left = left.T if node.get("transA", 0) else left
    right = right.T if node.get("transB", 0) else right
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    product = left @ right
    product = product if alpha == 1.0 else alpha * product
    if bias is not None:
        product = product + (bias if beta == 1.0 else beta * bias)
    return _apply_activation(node, product)


@register_operator("Conv", "com.microsoft.FusedConv")
def compute_convolution(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Compute a convolution of one to three dimensions, with any padding."""
    images, weight, bias = require_input(inputs, 0), require_input(inputs, 1), find_optional(inputs, 2)
    result = compute_padded_convolution(node, images, weight, bias)
    added = find_optional(inputs, 3)
    return _apply_activation(node, result if added is None else result + added)


def compute_padded_convolution(node: OnnxNode, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute the convolution that a node's attributes build_model.

    Args:
        node: The node.
        images: (N, C, ...), one to three dimensions of space.
        weight: (K, C / groups, ...).
        bias: (K,), or None.
    """
    dimensions = images.ndim - 2
    if dimensions not in _CONVOLUTIONS:
        raise node.make_refusal(f"{dimensions} dimensions of space")
    strides = node.get("strides") or [1] * dimensions
    dilations = node.get("dilations") or [1] * dimensions
    extents = [(size - 1) * step + 1 for size, step in zip(weight.shape[2:], dilations, strict=True)]
    begins, ends = find_pads(node, images.shape[2:], extents, strides)
    if begins != ends:
        images, begins = functional.pad(images, flatten_pads(begins, ends)), [0] * dimensions
    result: Tensor = _CONVOLUTIONS[dimensions](
        images, weight, bias, stride=strides, padding=begins, dilation=dilations, groups=node.get("group", 1)
    )
    return result


@register_operator("ConvTranspose")
def compute_transposed_convolution(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Compute a transposed convolution of one to three dimensions."""
    images, weight, bias = require_input(inputs, 0), require_input(inputs, 1), find_optional(inputs, 2)
    dimensions = images.ndim - 2
    if dimensions not in _TRANSPOSED:
        raise node.make_refusal(f"{dimensions} dimensions of space")
    strides = node.get("strides") or [1] * dimensions
    dilations = node.get("dilations") or [1] * dimensions
    full = _TRANSPOSED[dimensions](
        images, weight, None, stride=strides, dilation=dilations, groups=node.get("group", 1)
    )
    extra = node.get("output_padding") or [0] * dimensions
    begins, ends = _find_transposed_pads(node, full.shape[2:], images.shape[2:], strides, extra)
    cropped = functional.pad(full, flatten_pads([-size for size in begins], [-size for size in ends]))
    return cropped if bias is None else cropped + bias.reshape(-1, *[1] * dimensions)


def _find_transposed_pads(
    node: OnnxNode, full: Sequence[int], sizes: Sequence[int], strides: Sequence[int], extra: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return how much is cut from each side of the full result; negative where zeros are added."""
    dimensions, mode = len(full), node.get("auto_pad", "NOTSET")
    target = node.get("output_shape")
    if target is None and mode in ("SAME_UPPER", "SAME_LOWER"):
        target = [size * step for size, step in zip(sizes, strides, strict=True)]
    if target is None:
        pads = (node.get("pads") if mode == "NOTSET" else None) or [0] * 2 * dimensions
        ends = [pad - more for pad, more in zip(pads[dimensions:], extra, strict=True)]
        return list(pads[:dimensions]), ends
    totals = [have + more - want for have, more, want in zip(full, extra, target[-dimensions:], strict=True)]
    begins = [total // 2 if mode == "SAME_UPPER" else total - total // 2 for total in totals]
    ends = [total - begin - more for total, begin, more in zip(totals, begins, extra, strict=True)]
    return begins, ends


@register_operator("Attention")
def compute_attention(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Compute scaled dot-product attention of (N, heads, tokens, width) or (N, tokens, heads * width)."""
    if any(value is not None for value in inputs[4:]) or set(node.attributes) - _ATTENTION_ATTRIBUTES:
        raise node.make_refusal("a cache of keys, a window or capped scores")
    query, key, value = (require_input(inputs, index) for index in range(3))
    is_flat = query.ndim == 3
    if is_flat:
        heads, shared = node.get("q_num_heads"), node.get("kv_num_heads")
        query, key, value = _split_heads(query, heads), _split_heads(key, shared), _split_heads(value, shared)
    copies = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(copies, dim=1), value.repeat_interleave(copies, dim=1)
    scale = node.get("scale") or query.shape[-1] ** -0.5
    scores = scale * (query @ key.mT)
    mask = find_optional(inputs, 3)
    if node.get("is_causal", 0):
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    if mask is not None:
        is_kept = mask.dtype == torch.bool
        scores = scores.masked_fill(~mask, -torch.inf) if is_kept else scores + mask
    result = torch.softmax(scores, dim=-1) @ value
    return result.transpose(1, 2).flatten(2) if is_flat else result


def _split_heads(values: Tensor, heads: int) -> Tensor:
    return values.reshape(*values.shape[:-1], heads, -1).transpose(1, 2)


def find_pads(
    node: OnnxNode, sizes: Sequence[int], extents: Sequence[int], strides: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return the padding before and after each dimension of space.

    Args:
        node: A node with ``pads`` or ``auto_pad``.
        sizes: Sizes of the input.
        extents: Sizes of the window, dilated.
        strides: Its steps.
    """
    mode, dimensions = node.get("auto_pad", "NOTSET"), len(sizes)
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        totals = [
            max(0, (-(-size // step) - 1) * step + extent - size)
            for size, extent, step in zip(sizes, extents, strides, strict=True)
        ]
        small = [total // 2 for total in totals]
        large = [total - half for total, half in zip(totals, small, strict=True)]
        return (small, large) if mode == "SAME_UPPER" else (large, small)
    pads = (node.get("pads") if mode in ("NOTSET", "") else None) or [0] * 2 * dimensions
    return list(pads[:dimensions]), list(pads[dimensions:])


def flatten_pads(begins: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Return padding in the order of torch: the last dimension first."""
    pairs = zip(reversed(begins), reversed(ends), strict=True)
    return [size for pair in pairs for size in pair]


def _apply_activation(node: OnnxNode, values: Tensor) -> Tensor:
    """Apply the activation that onnxruntime has fused into a node."""
    name = node.get("activation", "")
    if name in ("LeakyRelu", "Clip", "HardSigmoid"):
        limits = node.get("activation_params") or ([node.get("leaky_relu_alpha", 0.01)])
        if name == "LeakyRelu":
            return functional.leaky_relu(values, limits[0])
        return values.clamp(*limits) if name == "Clip" else (limits[0] * values + limits[1]).clamp(0, 1)
    if name not in _FUSED_ACTIVATIONS:
        raise node.make_refusal(f"the activation {name}")
    function = _FUSED_ACTIVATIONS[name]
    return values if function is None else function(values)
