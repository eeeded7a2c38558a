"""The table of ONNX operators: what computes each of them with torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Inputs = Sequence[Tensor | None]
"""The tensors of a node's inputs; None for an optional one that is left out."""


class UnsupportedOperatorError(Exception):
    """An operator, or a variant of one, that torch does not compute here."""


@dataclass(frozen=True)
class OnnxNode:
    """A node of a graph.

    Args:
        operator: Its name, with its domain unless that is ONNX's own: ``"Conv"``, ``"com.microsoft.QGemm"``.
        inputs: Names of tensors; empty for one that is left out.
        outputs: Names of tensors; empty for one that nobody wants.
        attributes: Numbers, texts, lists of them, tensors or graphs.
        opset: Version of the operator's domain, which decides what its attributes mean.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 1

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or its default."""
        return self.attributes.get(name, default)

    def make_refusal(self, variant: str) -> UnsupportedOperatorError:
        """Return the error for a variant of the operator that is not computed here."""
        return UnsupportedOperatorError(f"{self.operator} with {variant}")


Compute = Callable[[OnnxNode, Inputs], Tensor | Sequence[Tensor]]
"""Computes a node's outputs from its inputs, differentiably; a single output may stand alone."""

OPERATORS: dict[str, Compute] = {}
"""All operators that are computed here, by name."""


def register_operator(*names: str) -> Callable[[Compute], Compute]:
    """Register a function for operators of these names."""

    def add_to_table(compute: Compute) -> Compute:
        OPERATORS.update(dict.fromkeys(names, compute))
        return compute

    return add_to_table


def register_elementwise(functions: Mapping[str, Callable[..., Tensor]]) -> None:
    """Register torch functions of a node's inputs alone."""
    for name, function in functions.items():
        OPERATORS[name] = _call_with_inputs(function)


def find_unsupported(names: set[str]) -> list[str]:
    """Return the operators that are not computed here, in order."""
    return sorted(names - OPERATORS.keys())


def compute_node(node: OnnxNode, inputs: Inputs) -> Sequence[Tensor]:
    """Compute all outputs of a node.

    Raises:
        UnsupportedOperatorError: If the operator or this variant of it is not computed here.
    """
    compute = OPERATORS.get(node.operator)
    if compute is None:
        raise UnsupportedOperatorError(f"{node.operator}")
    result = compute(node, inputs)
    outputs = (result,) if isinstance(result, Tensor) else result
    if len(outputs) < sum(1 for name in node.outputs if name):
        raise node.make_refusal(f"{len(node.outputs)} outputs")
    return outputs


def require_input(inputs: Inputs, index: int) -> Tensor:
    """Return an input that the operator cannot do without."""
    value = inputs[index] if index < len(inputs) else None
    if value is None:
        raise UnsupportedOperatorError(f"a node without its input {index}")
    return value


def find_optional(inputs: Inputs, index: int) -> Tensor | None:
    """Return an optional input, or None."""
    return inputs[index] if index < len(inputs) else None


def read_integers(node: OnnxNode, inputs: Inputs, name: str, index: int) -> list[int] | None:
    """Return a list of integers that is an attribute in old opsets, and an input in new ones."""
    value = find_optional(inputs, index)
    if value is not None:
        return [int(entry) for entry in value.reshape(-1).tolist()]
    stored = node.get(name)
    return None if stored is None else [int(entry) for entry in stored]


def normalize_axes(axes: Sequence[int], count: int) -> list[int]:
    """Return axes counted from 0, in the order given."""
    return [axis + count if axis < 0 else axis for axis in axes]


def make_like(value: Tensor, target: Tensor) -> Tensor:
    """Return a tensor with the device and type of another."""
    return value.to(device=target.device, dtype=target.dtype)


def _call_with_inputs(function: Callable[..., Tensor]) -> Compute:
    def compute(node: OnnxNode, inputs: Inputs) -> Tensor:  # noqa: ARG001
        return function(*inputs)

    return compute


def is_integer(value: Tensor) -> bool:
    """Return whether a tensor holds integers."""
    return not value.is_floating_point() and value.dtype != torch.bool
