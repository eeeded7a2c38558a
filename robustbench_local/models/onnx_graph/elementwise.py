"""Elementwise operators: arithmetic, comparisons and activations."""

from __future__ import annotations

import math
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from robustbench_local.models.onnx_graph.operator_table import (
    Inputs,
    OnnxNode,
    find_optional,
    is_integer,
    make_like,
    register_elementwise,
    register_operator,
    require_input,
)

register_elementwise(
    {
        "Abs": torch.abs,
        "Acos": torch.acos,
        "Acosh": torch.acosh,
        "Add": torch.add,
        "And": torch.logical_and,
        "Asin": torch.asin,
        "Asinh": torch.asinh,
        "Atan": torch.atan,
        "Atanh": torch.atanh,
        "Ceil": torch.ceil,
        "Cos": torch.cos,
        "Cosh": torch.cosh,
        "Equal": torch.eq,
        "Erf": torch.erf,
        "Exp": torch.exp,
        "Floor": torch.floor,
        "Greater": torch.gt,
        "GreaterOrEqual": torch.ge,
        "HardSwish": functional.hardswish,
        "Identity": lambda values: values,
        "IsNaN": torch.isnan,
        "Less": torch.lt,
        "LessOrEqual": torch.le,
        "Log": torch.log,
        "Mish": functional.mish,
        "Mul": torch.mul,
        "Neg": torch.neg,
        "Not": torch.logical_not,
        "Or": torch.logical_or,
        "Reciprocal": torch.reciprocal,
        "Relu": torch.relu,
        "Round": torch.round,
        "Sigmoid": torch.sigmoid,
        "Sign": torch.sign,
        "Sin": torch.sin,
        "Sinh": torch.sinh,
        "Softplus": lambda values: torch.logaddexp(values, torch.zeros_like(values)),
        "Softsign": functional.softsign,
        "Sqrt": torch.sqrt,
        "Sub": torch.sub,
        "Tan": torch.tan,
        "Tanh": torch.tanh,
        "Xor": torch.logical_xor,
        "Max": lambda *values: reduce(torch.maximum, values),
        "Mean": lambda *values: reduce(torch.add, values) / len(values),
        "Min": lambda *values: reduce(torch.minimum, values),
        "Sum": lambda *values: reduce(torch.add, values),
        "com.microsoft.QuickGelu": lambda values: values * torch.sigmoid(1.702 * values),
    }
)


@register_operator("Div")
def compute_division(node: OnnxNode, inputs: Inputs) -> Tensor:  # noqa: ARG001
    """Divide; integers are rounded towards zero."""
    dividend, divisor = require_input(inputs, 0), require_input(inputs, 1)
    if is_integer(dividend):
        return torch.div(dividend, divisor, rounding_mode="trunc")
    return dividend / divisor


@register_operator("Mod")
def compute_modulo(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Compute the remainder with the sign of the divisor, or with ``fmod`` of the dividend."""
    dividend, divisor = require_input(inputs, 0), require_input(inputs, 1)
    return torch.fmod(dividend, divisor) if node.get("fmod", 0) else torch.remainder(dividend, divisor)


@register_operator("Pow")
def compute_power(node: OnnxNode, inputs: Inputs) -> Tensor:  # noqa: ARG001
    """Raise to a power, in the type of the base."""
    base, exponent = require_input(inputs, 0), require_input(inputs, 1)
    if exponent.numel() == 1 and not exponent.requires_grad:
        return torch.pow(base, exponent.item()).to(base.dtype)  # 0 to the power 2 has a finite gradient
    return torch.pow(base, exponent).to(base.dtype)


@register_operator("Where")
def select_values(node: OnnxNode, inputs: Inputs) -> Tensor:  # noqa: ARG001
    """Choose between two tensors by a third."""
    condition, first, second = (require_input(inputs, index) for index in range(3))
    return torch.where(condition.to(torch.bool), first, second)


@register_operator("IsInf")
def find_infinities(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Mark infinities of the wanted signs."""
    values = require_input(inputs, 0)
    positive = torch.isposinf(values) & bool(node.get("detect_positive", 1))
    return positive | (torch.isneginf(values) & bool(node.get("detect_negative", 1)))


@register_operator("Clip")
def clip_values(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Clip to limits, which are attributes in old opsets and may be missing."""
    values = require_input(inputs, 0)
    low, high = find_optional(inputs, 1), find_optional(inputs, 2)
    if low is None and "min" in node.attributes:
        low = torch.tensor(node.get("min"))
    if high is None and "max" in node.attributes:
        high = torch.tensor(node.get("max"))
    if low is not None:
        values = torch.clamp(values, min=make_like(low, values))
    return values if high is None else torch.clamp(values, max=make_like(high, values))


@register_operator("LeakyRelu")
def compute_leaky_relu(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Compute a leaky ReLU."""
    return functional.leaky_relu(require_input(inputs, 0), node.get("alpha", 0.01))


@register_operator("PRelu")
def compute_prelu(node: OnnxNode, inputs: Inputs) -> Tensor:  # noqa: ARG001
    """Compute a leaky ReLU with slopes that are broadcast."""
    values, slopes = require_input(inputs, 0), require_input(inputs, 1)
    return torch.where(values < 0, values * slopes, values)


@register_operator("Elu", "Celu", "Selu")
def compute_elu(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Compute an exponential linear unit of one of three kinds."""
    values = require_input(inputs, 0)
    if node.operator == "Celu":
        return functional.celu(values, node.get("alpha", 1.0))
    gamma, alpha = 1.0, node.get("alpha", 1.0)
    if node.operator == "Selu":
        gamma, alpha = node.get("gamma", 1.0507009873554805), node.get("alpha", 1.6732632423543772)
    return gamma * functional.elu(values, alpha)


@register_operator("ThresholdedRelu")
def compute_thresholded_relu(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Keep values above a threshold, and 0 for the others."""
    values = require_input(inputs, 0)
    return torch.where(values > node.get("alpha", 1.0), values, torch.zeros_like(values))


@register_operator("Shrink")
def shrink_values(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Move values towards 0 by a bias, and those near 0 to it."""
    values, bias, limit = require_input(inputs, 0), node.get("bias", 0.0), node.get("lambd", 0.5)
    moved = torch.where(values > limit, values - bias, values + bias)
    return torch.where(values.abs() > limit, moved, torch.zeros_like(values))


@register_operator("HardSigmoid")
def compute_hard_sigmoid(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Compute a clipped line."""
    line = float(node.get("alpha", 0.2)) * require_input(inputs, 0) + float(node.get("beta", 0.5))
    return line.clamp(0, 1)


@register_operator("Swish")
def compute_swish(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Compute x times the sigmoid of alpha x."""
    values = require_input(inputs, 0)
    return values * torch.sigmoid(node.get("alpha", 1.0) * values)


@register_operator("Gelu", "com.microsoft.Gelu", "com.microsoft.FastGelu", "com.microsoft.BiasGelu")
def compute_gelu(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Compute the Gaussian error linear unit, exactly or by tanh."""
    values, bias = require_input(inputs, 0), find_optional(inputs, 1)
    approximate = node.get("approximate", "none")
    if node.operator == "com.microsoft.FastGelu":
        approximate = "tanh"
    return functional.gelu(values if bias is None else values + bias, approximate=approximate)


@register_operator("Softmax", "LogSoftmax", "Hardmax")
def compute_softmax(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Compute softmax over an axis, or, before opset 13, over all axes from it on."""
    values = require_input(inputs, 0)
    shape, axis = values.shape, node.get("axis", -1 if node.opset >= 13 else 1)
    if node.opset < 13:
        axis += len(shape) if axis < 0 else 0
        values, axis = values.reshape(math.prod(shape[:axis]), -1), 1
    if node.operator == "Hardmax":
        chosen = values.argmax(dim=axis, keepdim=True)
        return torch.zeros_like(values).scatter(axis, chosen, 1.0).reshape(shape)
    function = torch.softmax if node.operator == "Softmax" else torch.log_softmax
    return function(values, dim=axis).reshape(shape)
