"""The softmax at the end of a graph: found, and left out so that attacks see the logits before it."""

from __future__ import annotations

from dataclasses import replace

from robustbench_local.models.onnx_graph.graph_reader import OnnxGraph
from robustbench_local.models.onnx_graph.operator_table import OnnxNode

_PASSING = frozenset({"Cast", "DequantizeLinear", "Identity", "QuantizeLinear"})
"""Operators after a softmax that leave probabilities what they are, up to rounding."""


def find_softmax(graph: OnnxGraph, output: str) -> OnnxNode | None:
    """Return the softmax that an output comes from, also through a rounding; None if there is none.

    Args:
        graph: The graph.
        output: Name of the output.
    """
    makers = {name: node for node in graph.nodes for name in node.outputs}
    node = makers.get(output)
    while node is not None and node.operator in _PASSING:
        node = makers.get(node.inputs[0])
    is_softmax = node is not None and node.operator == "Softmax" and node.get("axis", -1) in (1, -1)
    return node if is_softmax else None


def find_probability_step(graph: OnnxGraph, output: str) -> float | None:
    """Return the distance of two probabilities of an output that is rounded; None if it is not.

    Args:
        graph: The graph.
        output: Name of the output, which comes from a softmax.
    """
    makers = {name: node for node in graph.nodes for name in node.outputs}
    node = makers[output]
    while node.operator in _PASSING and node.operator != "DequantizeLinear":
        node = makers[node.inputs[0]]
    scale = graph.constants.get(node.inputs[1]) if node.operator == "DequantizeLinear" else None
    return None if scale is None else float(scale.max())


def remove_softmax(graph: OnnxGraph, output: str) -> OnnxGraph:
    """Return the graph with the logits in place of an output's probabilities, also of rounded ones.

    Args:
        graph: The graph.
        output: Name of the output.
    """
    softmax = find_softmax(graph, output)
    if softmax is None:
        return graph
    nodes = [node for node in graph.nodes if output not in node.outputs]
    return replace(graph, nodes=(*nodes, OnnxNode("Identity", softmax.inputs[:1], (output,))))
