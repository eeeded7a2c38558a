"""A network as a list of operations with known bounds, obtained by tracing its ``forward``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from robustbench_local.certification.bound_propagation.layers import build_operation, is_supported
from robustbench_local.certification.bound_propagation.node_context import (
    NodeContext,
    UnsupportedNodeError,
    compute_node,
    is_shape_read,
)
from robustbench_local.certification.bound_propagation.operations import (
    Activation,
    Affine,
    Convolution,
    InputNode,
    Operation,
    Reshape,
    Shape,
    Sum,
    build_rounding,
)
from robustbench_local.certification.bound_propagation.precision import (
    COVERED_DTYPES,
    check_dtypes_covered,
)
from robustbench_local.classifier.dtype_recorder import record_dtypes
from robustbench_local.classifier.foreign_errors import extract_first_line, is_out_of_memory
from robustbench_local.errors import ModelError

_LOGIT_TOLERANCE_SHARE = 1e-4
"""Tolerance, relative to the largest logit, between the graph and the module."""


@dataclass(frozen=True)
class Node:
    """One operation of a graph.

    Args:
        name: Name of the module, or of the node in the trace.
        operation: The operation.
        inputs: Positions in the graph of the earlier nodes whose values it takes.
        shape: Shape of its values for one image.
    """

    name: str
    operation: Operation
    inputs: tuple[int, ...]
    shape: Shape


class Graph:
    """The operations of a network in order of computation; the last one gives the logits.

    The graph shares the parameters of the module: a change there changes the graph. Batch norm uses its
    running statistics and dropout is the identity, in any mode of the module.

    Args:
        nodes: The operations; the first is the `InputNode`.
    """

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes

    @property
    def shape(self) -> Shape:
        """Shape (C, H, W) of the images."""
        return self.nodes[0].shape

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits, in the dtype of the images, (N, C, H, W)."""
        values: list[Tensor] = []
        for node in self.nodes:
            inputs = [values[index] for index in node.inputs]
            values.append(images if isinstance(node.operation, InputNode) else _apply_node(node, inputs))
        return values[-1]

    def prepend_affine(self, operation: Affine) -> Graph:
        """Return this network with an affine map in front, such as a normalization."""
        shifted = [
            Node(node.name, node.operation, tuple(index + 1 for index in node.inputs), node.shape)
            for node in self.nodes[1:]
        ]
        return Graph([self.nodes[0], Node("normalize", operation, (0,), self.shape), *shifted])


def trace_network(module: nn.Module, shape: Shape, *, name: str = "model") -> Graph:
    """Convert a module to its operations by tracing.

    Args:
        module: Any module whose ``forward`` takes images and uses supported operations: convolution, linear
            layer, batch norm, average pools, ReLU, leaky ReLU, flatten, sums, constants.
        shape: (C, H, W) of its images.
        name: Name of the module in messages.

    Returns:
        The graph, which shares the module's parameters.

    Raises:
        ModelError: If a layer is not supported or the ``forward`` cannot be traced; the message names it.
    """
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            graph = _read_graph(module, shape, name)
            _check_agreement(graph, module, name)
    finally:
        for child, mode in modes:
            child.training = mode
    return graph


def check_layers(module: nn.Module, name: str) -> None:
    """Check, without the images' shape, that all operations on images are supported.

    Raises:
        ModelError: If a layer, function or method is not supported or the ``forward`` cannot be traced.
    """
    images: set[fx.Node] = set()
    for node in _trace_module(module, name).nodes:
        has_image_input = any(source in images for source in node.all_input_nodes)
        if node.op == "placeholder":
            images.add(node)
        elif has_image_input and node.op != "output" and not is_shape_read(node):
            if not is_supported(node, module):
                raise _build_error(node, UnsupportedNodeError.from_node(node, module), name)
            images.add(node)


def _trace_module(module: nn.Module, name: str) -> fx.Graph:
    try:
        return fx.Tracer().trace(module)
    except Exception as error:
        raise ModelError(
            f"its forward cannot be traced for bounds: {extract_first_line(error, 120)}",
            where=name,
            remedy="write it without decisions on values, or use a smoothing certificate",
        ) from error


def _read_graph(module: nn.Module, shape: Shape, name: str) -> Graph:
    traced = _trace_module(module, name)
    sample = _build_sample(module, shape)
    reader = _GraphReader(module, sample)
    for node in traced.nodes:
        try:
            reader.visit_node(node)
        except UnsupportedNodeError as error:
            raise _build_error(node, error, name) from None
    return Graph(reader.nodes)


def _build_error(node: fx.Node, error: UnsupportedNodeError, name: str) -> ModelError:
    message = f"{_describe_location(node)} {error.reason}, for which there are no bounds"
    return ModelError(message, where=name, remedy=error.remedy)


class _GraphReader:
    """Walks through a trace and evaluates a sample alongside, so that shapes and constants are known."""

    def __init__(self, module: nn.Module, sample: Tensor) -> None:
        self.module, self.sample = module, sample
        self.nodes: list[Node] = []
        self._values: dict[fx.Node, Any] = {}
        self._node_indices: dict[fx.Node, int] = {}
        self._shape_reads: dict[fx.Node, tuple[Any, Any]] = {}

    def visit_node(self, node: fx.Node) -> None:
        """Compute a node's sample value and, if it depends on the images, append its operation."""
        if node.op == "output":
            self._finish_graph(node)
            return
        value = self._compute_value(node)
        self._values[node] = value
        if node.op == "placeholder":
            self._node_indices[node] = self._append_node(
                Node("images", InputNode(), (), tuple(self.sample.shape[1:]))
            )
            return
        sources = [source for source in node.all_input_nodes if source in self._node_indices]
        if not sources:
            return
        if is_shape_read(node):
            self._shape_reads[node] = value, compute_node(node, self.module, self._expand_value)
            return
        if not isinstance(value, Tensor):
            raise UnsupportedNodeError.from_node(node, self.module)
        if value.ndim < 2 or len(value) != len(self.sample):
            raise UnsupportedNodeError("mixes the images of a batch", "keep the first axis for the images")
        operation = self._build_operation(node, value, sources)
        if operation is None:
            self._node_indices[node] = self._node_indices[sources[0]]
            return
        shape = tuple(value.shape[1:])
        name = str(node.target) if node.op == "call_module" else node.name
        inputs = tuple(
            self._node_indices[source] for source in _list_image_arguments(node, self._node_indices)
        )
        if (
            isinstance(operation, Convolution) and operation.output_shape != shape
        ):  # a mean without keepdim drops height and width
            inputs = (self._append_node(Node(name, operation, inputs, operation.output_shape)),)
            operation = Reshape(operation.output_shape, shape)
        self._node_indices[node] = self._append_node(Node(name, operation, inputs, shape))

    def _build_operation(self, node: fx.Node, value: Tensor, sources: list[fx.Node]) -> Operation | None:
        """Return the operation of a node on the images; None if it leaves values and shape unchanged."""
        named = any(
            argument in self._node_indices
            for argument in node.kwargs.values()
            if isinstance(argument, fx.Node)
        )
        if named or set(_list_image_arguments(node, self._node_indices)) != set(sources):
            raise UnsupportedNodeError("takes images as a keyword or in a list", "pass them by position")
        operation = build_operation(
            node, NodeContext(self.module, self._values, self._node_indices, self._shape_reads)
        )
        if value.dtype not in COVERED_DTYPES:
            raise UnsupportedNodeError(f"gives {value.dtype}", "compute in float32")
        if value.dtype == torch.float32 and any(
            self._values[source].dtype != value.dtype for source in sources
        ):
            if operation is not None:
                raise UnsupportedNodeError("rounds to float32 implicitly", "write .float() before it")
            return build_rounding()
        return operation

    def _append_node(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def _compute_value(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            if self.nodes:
                raise UnsupportedNodeError(
                    "is a second input of the forward", "give the module one input: the images"
                )
            return self.sample
        try:
            return compute_node(node, self.module, self._values.__getitem__)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise UnsupportedNodeError(
                f"raises {type(error).__name__} ({extract_first_line(error, 120)})"
            ) from error

    def _expand_value(self, node: fx.Node) -> Any:
        """Return a node's value for a sample of more images, if only its shape matters."""
        value = self._values[node]
        return (
            value[:1].expand(len(self.sample) + 1, *value.shape[1:]) if node in self._node_indices else value
        )

    def _finish_graph(self, node: fx.Node) -> None:
        result = node.args[0]
        if not isinstance(result, fx.Node) or result not in self._node_indices:
            raise UnsupportedNodeError("does not return a single tensor of logits", "return the logits alone")
        index = self._node_indices[result]
        if index != len(self.nodes) - 1:
            self.nodes = self.nodes[: index + 1]
        if len(self.nodes[-1].shape) != 1:
            raise UnsupportedNodeError(f"returns {self.nodes[-1].shape} an image", "return logits (N, K)")
        if self._values[result].dtype != torch.float32:  # a classifier's logits are float32
            self._append_node(Node("logits", build_rounding(), (index,), self.nodes[-1].shape))


def _list_image_arguments(node: fx.Node, places: dict[fx.Node, int]) -> list[fx.Node]:
    """Return the arguments that depend on the images, in order; twice for a sum with itself."""
    return [argument for argument in node.args if isinstance(argument, fx.Node) and argument in places]


def _build_sample(module: nn.Module, shape: Shape) -> Tensor:
    """Return two images of constant noise, on the module's device."""
    noise = torch.rand((2, *shape), generator=torch.Generator().manual_seed(0))
    parameter = next((parameter for parameter in module.parameters() if parameter.is_floating_point()), noise)
    return noise.to(parameter)


def _check_agreement(graph: Graph, module: nn.Module, name: str) -> None:
    """Refuse a trace that misses an effect, such as an in-place change, a hook or autocast."""
    images = _build_sample(module, graph.shape)
    with record_dtypes() as watch:
        expected = module(images)
    check_dtypes_covered(watch.dtypes, name)
    computed = graph(images.double())
    scale = float(expected.abs().amax()) + 1.0
    if not torch.allclose(computed, expected.double(), rtol=0.0, atol=_LOGIT_TOLERANCE_SHARE * scale):
        raise ModelError(
            "its forward does not compute what its layers describe (values changed in place, hooks?)",
            where=name,
            remedy="write each step as a layer with a result of its own, or use a smoothing certificate",
        )


def _describe_location(node: fx.Node) -> str:
    """Return the module, or the function and the module that contains it."""
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack") or {}
    inside = list(stack)[-1] if stack else ""
    return f"{node.name} in {inside}" if inside else node.name


def _apply_node(node: Node, given: list[Tensor]) -> Tensor:
    operation = node.operation
    if isinstance(operation, Affine):
        offset = operation.compute_offset(given[0])
        values = operation.apply_linear(given[0])
        return values if offset is None else values + offset
    if isinstance(operation, Reshape):
        return given[0].reshape(len(given[0]), *node.shape)
    if isinstance(operation, Activation):
        return operation(given[0])
    assert isinstance(operation, Sum)  # noqa: S101  the only kind that is left
    return given[0] + operation.sign * given[1]
