"""Which values the nodes of a graph read, and an order in which each is computed before it is read."""

from __future__ import annotations

from collections.abc import Sequence
from graphlib import TopologicalSorter

from robustbench_local.models.onnx_graph.graph_reader import OnnxGraph
from robustbench_local.models.onnx_graph.operator_table import OnnxNode


def find_used_names(node: OnnxNode) -> list[str]:
    """Return the names that a node reads, also those that the graphs within it read from outside."""
    names = [name for name in node.inputs if name]
    for value in node.attributes.values():
        if isinstance(value, OnnxGraph):
            inner = {name for child in value.iterate_nodes() for name in child.outputs}
            read_names = [name for child in value.nodes for name in find_used_names(child)]
            outside = [*read_names, *value.outputs]
            names += [name for name in outside if name not in inner | value.constants.keys()]
    return names


def sort_nodes(nodes: Sequence[OnnxNode]) -> list[OnnxNode]:
    """Return nodes in an order in which each follows those that it reads from.

    ONNX asks for this order, and onnxruntime does without: tools append nodes to the end of a file.

    Args:
        nodes: The nodes.

    Raises:
        ValueError: If nodes read each other.
    """
    makers = {name: place for place, node in enumerate(nodes) for name in node.outputs if name}
    needs = {
        place: [makers[name] for name in find_used_names(node) if name in makers]
        for place, node in enumerate(nodes)
    }
    return [nodes[place] for place in TopologicalSorter(needs).static_order()]
