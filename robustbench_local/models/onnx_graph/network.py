"""A torch module that evaluates an ONNX graph node by node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from robustbench_local.models.onnx_graph import (
    convolutions,
    elementwise,
    fused_quantization,
    indexing,
    normalization,
    pooling,
    quantization,
    reductions,
    resizing,
    shapes,
)
from robustbench_local.models.onnx_graph.graph_reader import OnnxGraph
from robustbench_local.models.onnx_graph.node_order import find_used_names, sort_nodes
from robustbench_local.models.onnx_graph.operator_table import (
    OPERATORS,
    OnnxNode,
    UnsupportedOperatorError,
    compute_node,
    find_unsupported,
)

OPERATOR_MODULES = (
    convolutions,
    elementwise,
    fused_quantization,
    indexing,
    normalization,
    pooling,
    quantization,
    reductions,
    resizing,
    shapes,
)
"""The modules whose import fills the table of operators."""

_MAX_HOST_VALUES = 64
"""Integer tensors up to this size stay on the host: they are shapes and axes, which Python reads."""
_HOST_READERS = frozenset(
    {
        *("ConstantOfShape", "CumSum", "Expand", "OneHot", "Pad", "Range", "Reshape", "Resize", "Slice"),
        *("Split", "Squeeze", "Tile", "TopK", "Unsqueeze", "Upsample"),
    }
)
"""Operators that Python reads inputs of: an accelerator would have to be waited for."""
_RANDOM_OPERATORS = frozenset({"Bernoulli", "Multinomial", "RandomNormal", "RandomUniform"})


class OnnxNetwork(nn.Module):
    """The function of an ONNX graph, differentiable by autograd; any device.

    Weights in floats are parameters, larger tensors of integers are buffers. What does not depend on the
    inputs is computed once, here.

    Args:
        graph: The graph.

    Attributes:
        inputs: Names of its inputs, in the order of the arguments.
        outputs: Names of its outputs, in the order of the results.

    Raises:
        UnsupportedOperatorError: Naming the operators that are not computed here.
    """

    def __init__(self, graph: OnnxGraph) -> None:
        super().__init__()
        self.inputs, self.outputs = graph.inputs, graph.outputs
        nodes, values = _select_used_nodes(graph), dict(graph.constants)
        unsupported = find_unsupported(replace(graph, nodes=tuple(nodes)).find_operators() - {"If"})
        if unsupported:
            raise UnsupportedOperatorError(", ".join(unsupported))
        self._nodes = _fold_constants(nodes, values)
        self._releases = _find_releases(self._nodes, graph.outputs)
        used = {name for node in self._nodes for name in find_used_names(node)} | set(graph.outputs)
        norms = (node for node in self._nodes if node.operator == "BatchNormalization")
        statistics = {name for node in norms for name in node.inputs[3:]}
        self._host: dict[str, Tensor] = {}
        self._stored: dict[str, str] = {}
        for name in sorted(used & values.keys()):
            self._store_constant(name, values[name], is_trained=name not in statistics)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs for inputs in the order of ``inputs``.

        Raises:
            UnsupportedOperatorError: If a variant of an operator is not computed here.
        """
        values = dict(self._host)
        values |= {name: getattr(self, attribute) for name, attribute in self._stored.items()}
        values |= dict(zip(self.inputs, inputs, strict=True))
        device = inputs[0].device
        for node, releases in zip(self._nodes, self._releases, strict=True):
            _run_node(node, values, device)
            for name in releases:
                del values[name]
        return tuple(values[name] for name in self.outputs)

    def extra_repr(self) -> str:
        """Return the number of nodes."""
        return f"{len(self._nodes)} nodes"

    def _store_constant(self, name: str, value: Tensor, *, is_trained: bool) -> None:
        """Store a constant as a parameter, a buffer or on the host."""
        if not value.is_floating_point() and value.numel() <= _MAX_HOST_VALUES:
            self._host[name] = value
            return
        attribute = f"tensor_{len(self._stored)}"
        self._stored[name] = attribute
        value = value.detach().clone()
        if value.is_floating_point() and is_trained:
            self.register_parameter(attribute, nn.Parameter(value, requires_grad=False))
        else:
            self.register_buffer(attribute, value)


def _run_node(node: OnnxNode, values: dict[str, Tensor], device: torch.device) -> None:
    """Compute a node and add its outputs to the values."""
    if node.operator == "If":
        _run_branch(node, values, device)
        return
    inputs = [values[name] if name else None for name in node.inputs]
    if device.type != "cpu" and node.operator not in _HOST_READERS:
        inputs = _move_together(inputs)
    outputs = compute_node(node, inputs)
    values.update((name, value) for name, value in zip(node.outputs, outputs, strict=False) if name)


def _run_branch(node: OnnxNode, values: dict[str, Tensor], device: torch.device) -> None:
    """Compute one branch of an If, which sees all values outside of it."""
    is_chosen = bool(values[node.inputs[0]].any())
    branch: OnnxGraph = node.get("then_branch" if is_chosen else "else_branch")
    inner = values | {name: value.to(device) for name, value in branch.constants.items()}
    for child in branch.nodes:
        _run_node(child, inner, device)
    values.update(zip(node.outputs, (inner[name] for name in branch.outputs), strict=True))


def _move_together(inputs: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Move tensors on the host to the accelerator where a node mixes both; scalars may stay."""
    device = next(
        (value.device for value in inputs if value is not None and value.device.type != "cpu"), None
    )
    if device is None:
        return list(inputs)
    return [value.to(device) if value is not None and value.ndim else value for value in inputs]


def _select_used_nodes(graph: OnnxGraph) -> list[OnnxNode]:
    """Return the nodes that the outputs depend on, without names for outputs that nothing reads."""
    used, kept = set(graph.outputs), []
    for node in reversed(sort_nodes(graph.nodes)):
        outputs = tuple(name if name in used else "" for name in node.outputs)
        if any(outputs):
            kept.append(replace(node, outputs=outputs))
            used.update(find_used_names(node))
    return kept[::-1]


def _fold_constants(nodes: Sequence[OnnxNode], values: dict[str, Tensor]) -> tuple[OnnxNode, ...]:
    """Compute the nodes that depend on constants alone, into ``values``; return the others."""
    left = []
    with torch.no_grad():
        for node in nodes:
            is_constant = all(not name or name in values for name in find_used_names(node))
            if is_constant and node.operator not in _RANDOM_OPERATORS:
                _run_node(node, values, torch.device("cpu"))
            else:
                left.append(node)
    return tuple(left)


def _find_releases(nodes: Sequence[OnnxNode], outputs: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return, for each node, the values that nothing needs after it."""
    seen = set(outputs)
    releases: list[tuple[str, ...]] = []
    for node in reversed(nodes):
        made = [name for name in node.outputs if name]
        last = [name for name in dict.fromkeys([*find_used_names(node), *made]) if name not in seen]
        releases.append(tuple(last))
        seen.update(last)
    return tuple(reversed(releases))


def list_operators() -> list[str]:
    """Return the names of all operators that are computed here, in order."""
    return sorted({*OPERATORS, "Constant", "If"})
