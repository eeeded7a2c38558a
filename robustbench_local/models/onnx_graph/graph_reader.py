"""Reading of an ONNX file into nodes and tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from robustbench_local.models.onnx_graph.operator_table import OnnxNode
from robustbench_local.models.onnx_graph.tensor_types import HALF_TYPES, convert_array

_OWN_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class OnnxGraph:
    """The nodes of a graph in the order of computation, and its constants.

    Args:
        nodes: The nodes; attributes that are graphs are `OnnxGraph`.
        constants: Tensors in the file, by name.
        inputs: Names of the inputs that have to be given.
        outputs: Names of the outputs.
        is_half: Whether some tensors are in half precision.
    """

    nodes: tuple[OnnxNode, ...]
    constants: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    is_half: bool = False

    def iterate_nodes(self) -> Iterator[OnnxNode]:
        """Yield all nodes, also of the graphs within nodes."""
        for node in self.nodes:
            yield node
            for value in node.attributes.values():
                if isinstance(value, OnnxGraph):
                    yield from value.iterate_nodes()

    def find_operators(self) -> set[str]:
        """Return the names of all operators."""
        return {node.operator for node in self.iterate_nodes()}


def read_graph(content: bytes, folder: Path) -> OnnxGraph:
    """Read the graph of an ONNX file; functions that the file defines are put in their places.

    Args:
        content: The file.
        folder: Where its external tensors are, whose paths have been checked.

    Raises:
        ImportError: If the package onnx is missing.
        UnsupportedOperatorError: If it has tensors that torch cannot hold.
        Exception: Of the package onnx, if this is not an ONNX file.
    """
    onnx: Any = import_module("onnx")
    model = onnx.load_model_from_string(content)
    import_module("onnx.external_data_helper").load_external_data_for_model(model, str(folder))
    if len(model.functions):
        model = import_module("onnx.inliner").inline_local_functions(model)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    return _GraphReader(onnx, opsets).read_graph_proto(model.graph)


@dataclass(frozen=True)
class _GraphReader:
    """Reads graphs of one file.

    Args:
        onnx: The package.
        opsets: Versions of the operators' domains.
    """

    onnx: Any
    opsets: Mapping[str, int]

    def read_graph_proto(self, graph: Any) -> OnnxGraph:
        """Read a graph, and the graphs within its nodes."""
        if graph.sparse_initializer:
            raise ValueError("it has sparse tensors")
        constants = {tensor.name: self._read_tensor(tensor) for tensor in graph.initializer}
        nodes = []
        for proto in graph.node:
            node = self._read_node(proto)
            if node.operator == "Constant":
                constants[node.outputs[0]] = self._read_constant(node)
            else:
                nodes.append(node)
        return OnnxGraph(
            nodes=tuple(nodes),
            constants=constants,
            inputs=tuple(entry.name for entry in graph.input if entry.name not in constants),
            outputs=tuple(entry.name for entry in graph.output),
            is_half=any(tensor.data_type in HALF_TYPES for tensor in graph.initializer),
        )

    def _read_node(self, proto: Any) -> OnnxNode:
        attributes = {entry.name: self._read_attribute(entry) for entry in proto.attribute}
        domain = "" if proto.domain in _OWN_DOMAINS else proto.domain
        opset = self.opsets.get(domain, self.opsets.get("ai.onnx", 1) if not domain else 1)
        name = f"{domain}.{proto.op_type}" if domain else proto.op_type
        return OnnxNode(name, tuple(proto.input), tuple(proto.output), attributes, opset)

    def _read_attribute(self, proto: Any) -> Any:
        kinds = self.onnx.AttributeProto
        if proto.type == kinds.GRAPH:
            return self.read_graph_proto(proto.g)
        if proto.type == kinds.TENSOR:
            return self._read_tensor(proto.t)
        value = self.onnx.helper.get_attribute_value(proto)
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        return value if isinstance(value, int | float) else list(value)

    def _read_tensor(self, proto: Any) -> Tensor:
        return convert_array(self.onnx.numpy_helper.to_array(proto), proto.data_type)

    def _read_constant(self, node: OnnxNode) -> Tensor:
        """Return the tensor of a Constant node, whichever way it is written."""
        ((name, value),) = node.attributes.items()
        if isinstance(value, Tensor):
            return value
        return convert_array(value, 1 if name.startswith("value_float") else 7)
