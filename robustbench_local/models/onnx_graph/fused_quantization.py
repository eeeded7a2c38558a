"""Quantised operators of onnxruntime's own domain: each is its float operator between two roundings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from robustbench_local.models.onnx_graph.operator_table import (
    Inputs,
    OnnxNode,
    compute_node,
    find_optional,
    register_operator,
    require_input,
)
from robustbench_local.models.onnx_graph.quantization import dequantize_values, requantize_values

_FLOAT_OPERATORS = {
    "com.microsoft.QLinearAveragePool": "AveragePool",
    "com.microsoft.QLinearGlobalAveragePool": "GlobalAveragePool",
    "com.microsoft.QLinearLeakyRelu": "LeakyRelu",
    "com.microsoft.QLinearReduceMean": "ReduceMean",
    "com.microsoft.QLinearSigmoid": "Sigmoid",
    "com.microsoft.QLinearSoftmax": "Softmax",
}
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "com.microsoft.QLinearAdd": torch.add,
    "com.microsoft.QLinearMul": torch.mul,
}


@register_operator(*_FLOAT_OPERATORS)
def compute_between_roundings(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Compute a float operator of one quantised input: its scale and zero point, then those of the output."""
    if node.get("channels_last", 0):
        raise node.make_refusal("channels last")
    values = dequantize_values(require_input(inputs, 0), require_input(inputs, 1), find_optional(inputs, 2))
    opset = node.get("opset", 13)
    single = replace(node, operator=_FLOAT_OPERATORS[node.operator], outputs=node.outputs[:1], opset=opset)
    return requantize_values(compute_node(single, [values])[0], inputs, 3)


@register_operator(*_BINARY)
def combine_quantized(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Add or multiply two quantised tensors."""
    left = dequantize_values(require_input(inputs, 0), require_input(inputs, 1), find_optional(inputs, 2))
    right = dequantize_values(require_input(inputs, 3), require_input(inputs, 4), find_optional(inputs, 5))
    return requantize_values(_BINARY[node.operator](left, right), inputs, 6)


@register_operator("com.microsoft.QLinearConcat")
def concatenate_quantized(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Concatenate quantised tensors, each with its own scale."""
    parts = [
        dequantize_values(*(require_input(inputs, index + offset) for offset in range(3)))
        for index in range(2, len(inputs), 3)
    ]
    return requantize_values(torch.cat(parts, dim=node.get("axis")), inputs, 0)


@register_operator("com.microsoft.QGemm")
def multiply_quantized_matrices(node: OnnxNode, inputs: Inputs) -> Tensor:
    """Multiply quantised matrices, add a bias, and quantise again where the output has a scale."""
    left = dequantize_values(*(require_input(inputs, index) for index in (0, 1, 2)))
    weight, scale, zero = (require_input(inputs, index) for index in (3, 4, 5))
    is_transposed = bool(node.get("transB", 0))
    if scale.numel() > 1 and is_transposed:
        scale, zero = scale[:, None], zero[:, None]
    right = dequantize_values(weight, scale, zero)
    left = left.T if node.get("transA", 0) else left
    product = node.get("alpha", 1.0) * (left @ (right.T if is_transposed else right))
    bias = find_optional(inputs, 6)
    if bias is not None:
        product = product + bias * (node.get("alpha", 1.0) * require_input(inputs, 1) * scale.reshape(-1))
    return product if find_optional(inputs, 7) is None else requantize_values(product, inputs, 7)
