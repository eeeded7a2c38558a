"""Quantised operators: values as in the integers, slopes straight through the rounding.

A quantised tensor is held as floats that are whole numbers, so that gradients pass. Rounding has the slope of
the identity, and saturation has slope 0, where a change of the pixel changes nothing.

Source: Athalye et al. 2018, arXiv:1802.00420 (BPDA); Jacob et al. 2018, arXiv:1712.05877.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_local.bpda import apply_straight_through
from robustbench_local.models.onnx_graph.convolutions import compute_padded_convolution
from robustbench_local.models.onnx_graph.operator_table import (
    Inputs,
    OnnxNode,
    find_optional,
    is_integer,
    register_operator,
    require_input,
)
from robustbench_local.models.onnx_graph.tensor_types import INTEGER_RANGES

_RANGES = {torch.uint8: (0, 255), torch.int8: (-128, 127), torch.int16: (-32768, 32767)}


@register_operator("QuantizeLinear", "com.microsoft.QuantizeLinear")
def quantize_linear(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Round to multiples of a scale, within the range of the integer type."""
    values, scale, zero = require_input(inputs, 0), require_input(inputs, 1), find_optional(inputs, 2)
    if node.get("block_size", 0):
        raise node.make_refusal("blocks")
    number = node.get("output_dtype", 0) or 2
    limits = INTEGER_RANGES.get(number) if zero is None else _RANGES.get(zero.dtype)
    if limits is None:
        raise node.make_refusal("a type other than 8 or 16 bits")
    return quantize_values(values, _align_scale(scale, values, node), _align_zero(zero, values, node), limits)


@register_operator("DequantizeLinear", "com.microsoft.DequantizeLinear")
def dequantize_linear(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Return the numbers that integers stand for."""
    values, scale, zero = require_input(inputs, 0), require_input(inputs, 1), find_optional(inputs, 2)
    if node.get("block_size", 0):
        raise node.make_refusal("blocks")
    return dequantize_values(values, _align_scale(scale, values, node), _align_zero(zero, values, node))


@register_operator("DynamicQuantizeLinear")
def quantize_dynamically(node: OnnxNode, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG001
    """Quantise to 0..255 by the range of these very values."""
    values = require_input(inputs, 0)
    low = values.detach().amin().clamp(max=0)
    scale = (values.detach().amax().clamp(min=0) - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.round((-low / scale).clamp(0, 255))
    return quantize_values(values, scale, zero, (0, 255)), scale, zero


@register_operator("MatMulInteger")
def multiply_integers(node: OnnxNode, inputs: Inputs) -> Tensor:  # noqa: ARG001
    """Multiply matrices of integers, without their zero points."""
    left, right = require_input(inputs, 0).to(torch.float32), require_input(inputs, 1).to(torch.float32)
    left_zero, right_zero = find_optional(inputs, 2), find_optional(inputs, 3)
    if left_zero is not None:
        left = left - (left_zero.unsqueeze(-1) if left_zero.ndim else left_zero)
    return left @ (right if right_zero is None else right - right_zero)


@register_operator("ConvInteger")
def convolve_integers(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Convolve integers, without their zero points."""
    images, weight = require_input(inputs, 0).to(torch.float32), require_input(inputs, 1).to(torch.float32)
    image_zero, weight_zero = find_optional(inputs, 2), find_optional(inputs, 3)
    if image_zero is not None:
        images = images - image_zero
    if weight_zero is not None:
        weight = weight - (weight_zero.reshape(-1, *[1] * (weight.ndim - 1)))
    return compute_padded_convolution(node, images, weight, None)


@register_operator("QLinearConv")
def convolve_quantized(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Convolve quantised images by quantised weights, and quantise again."""
    images = dequantize_values(*(require_input(inputs, index) for index in (0, 1, 2)))
    weight, scale, zero = (require_input(inputs, index) for index in (3, 4, 5))
    sides = [-1, *[1] * (weight.ndim - 1)]
    weight = dequantize_values(
        weight, scale.reshape(sides) if scale.numel() > 1 else scale, _reshape_to_channels(zero, sides)
    )
    bias = find_optional(inputs, 8)
    if bias is not None:
        bias = bias * (require_input(inputs, 1) * scale)
    return requantize_values(compute_padded_convolution(node, images, weight, bias), inputs, 6)


@register_operator("QLinearMatMul")
def multiply_quantized(node: OnnxNode, inputs: Inputs) -> Tensor:  # noqa: ARG001
    """Multiply quantised matrices, and quantise again."""
    left = dequantize_values(*(require_input(inputs, index) for index in (0, 1, 2)))
    right = dequantize_values(*(require_input(inputs, index) for index in (3, 4, 5)))
    return requantize_values(left @ right, inputs, 6)


def quantize_values(values: Tensor, scale: Tensor, zero: Tensor | float, limits: tuple[int, int]) -> Tensor:
    """Return whole numbers, as floats, that stand for values; differentiable straight through the rounding.

    Args:
        values: Any shape, floats.
        scale: Value of one step, broadcast.
        zero: The whole number that stands for 0, broadcast.
        limits: Smallest and largest whole number.
    """
    rounded = apply_straight_through(torch.round, values / scale)
    return (rounded + zero).clamp(*limits)


def dequantize_values(values: Tensor, scale: Tensor, zero: Tensor | float | None = None) -> Tensor:
    """Return the floats that whole numbers stand for."""
    numbers = values if values.is_floating_point() else values.to(scale.dtype)
    if isinstance(zero, Tensor) and is_integer(zero):
        zero = zero.to(scale.dtype)
    return (numbers if zero is None else numbers - zero) * scale


def requantize_values(values: Tensor, inputs: Inputs, index: int) -> Tensor:
    """Quantise by the scale at an index of a node's inputs, and the zero point after it."""
    scale, zero = require_input(inputs, index), find_optional(inputs, index + 1)
    limits = (0, 255) if zero is None else _RANGES[zero.dtype]
    return quantize_values(values, scale, 0.0 if zero is None else zero.to(scale.dtype), limits)


def _align_scale(scale: Tensor, values: Tensor, node: OnnxNode) -> Tensor:
    """Give a scale for each entry of an axis the shape of the values."""
    axis = node.get("axis", 1)
    if scale.numel() <= 1:
        return scale.reshape(())
    sides = [1] * values.ndim
    sides[axis] = -1
    return scale.reshape(sides)


def _align_zero(zero: Tensor | None, values: Tensor, node: OnnxNode) -> Tensor | float:
    return 0.0 if zero is None else _align_scale(zero.to(torch.float32), values, node)


def _reshape_to_channels(values: Tensor, sides: list[int]) -> Tensor:
    return values.reshape(sides) if values.numel() > 1 else values
