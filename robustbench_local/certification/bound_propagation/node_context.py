"""The context of a node of a traced network: shapes, constants, and the error for missing bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from robustbench_local.certification.bound_propagation.operations import Shape

_DEFAULT_REMEDY = "use a layer that has (see docs/how-to/certify.md), or a smoothing certificate"
_SHAPE_METHODS = frozenset({"size", "dim", "ndimension"})
_SHAPE_ATTRIBUTES = frozenset({"shape", "ndim", "dtype", "device"})


class UnsupportedNodeError(Exception):
    """The node has no bounds."""

    def __init__(self, what: str, remedy: str = _DEFAULT_REMEDY) -> None:
        self.reason, self.remedy = what, remedy
        super().__init__(what)

    @classmethod
    def from_node(cls, node: fx.Node, module: nn.Module) -> UnsupportedNodeError:
        """Build the error for the layer, function or method of this node."""
        if node.op == "call_module":
            return cls(f"is a {type(module.get_submodule(str(node.target))).__name__}")
        label = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.target)
        return cls(f"is the operation {label}")


@dataclass(frozen=True)
class NodeContext:
    """The values, constants and shapes known at a node.

    Args:
        module: The traced module.
        values: Values of the earlier nodes for a sample.
        image_nodes: The nodes that depend on the images.
        shape_reads: Values that nodes compute from shapes: for the sample, and for a sample of more images.
    """

    module: nn.Module
    values: Mapping[fx.Node, Any]
    image_nodes: Mapping[fx.Node, int]
    shape_reads: Mapping[fx.Node, tuple[Any, Any]]

    def get_shape(self, node: fx.Node) -> Shape:
        """Return the shape of one image's values at that node."""
        return tuple(self.values[node].shape[1:])

    def build_constant_reader(self, argument: Any) -> Callable[[], Any]:
        """Return a function that reads a number or tensor independent of the pixels, at its current value.

        Raises:
            UnsupportedNodeError: If it depends on the number of images; the verdict of each image would too.
        """
        if not isinstance(argument, fx.Node):
            return lambda: argument
        module = self.module
        few, more = ({node: read[which] for node, read in self.shape_reads.items()} for which in (0, 1))
        if not _is_batch_independent(argument, module, few, more):
            raise UnsupportedNodeError(
                "depends on the number of images", "let a constant be the same for any batch"
            )
        return lambda: _recompute_node(argument, module, few)

    def read_constants(self, arguments: Any) -> Any:
        """Return the values of arguments, also nested, that are independent of the pixels."""
        return fx.node.map_arg(arguments, lambda each: self.build_constant_reader(each)())


def is_shape_read(node: fx.Node) -> bool:
    """Return whether a node reads only the shape or format of images, not their pixels."""
    if node.op == "call_method":
        return node.target in _SHAPE_METHODS
    return node.op == "call_function" and node.target is getattr and node.args[1] in _SHAPE_ATTRIBUTES


def compute_node(node: fx.Node, module: nn.Module, value_of: Callable[[fx.Node], Any]) -> Any:
    """Compute the value of a node that is neither the images nor the output.

    Args:
        node: The node.
        module: The traced module.
        value_of: Values of the nodes before it.
    """
    if node.op == "get_attr":
        value: Any = module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return value
    arguments = fx.node.map_arg(node.args, value_of)
    options = fx.node.map_arg(node.kwargs, value_of)
    if node.op == "call_module":
        return module.get_submodule(str(node.target))(*arguments, **options)
    if node.op == "call_method":
        return getattr(arguments[0], str(node.target))(*arguments[1:], **options)
    return node.target(*arguments, **options)  # type: ignore[operator]  # a function, by fx's contract


def _recompute_node(node: fx.Node, module: nn.Module, reads: Mapping[fx.Node, Any]) -> Any:
    """Recompute the value of a node that is independent of the pixels; shape values are given."""
    if node in reads:
        return reads[node]
    return compute_node(node, module, lambda each: _recompute_node(each, module, reads))


def _is_batch_independent(
    node: fx.Node, module: nn.Module, few: Mapping[fx.Node, Any], more: Mapping[fx.Node, Any]
) -> bool:
    """Return whether a constant is the same for few images and for more."""
    first = _recompute_node(node, module, few)
    try:
        second = _recompute_node(node, module, more)
    except Exception:  # noqa: BLE001  any code of the module's: it cannot take another number of images
        return False
    return torch.equal(first, second) if isinstance(first, Tensor) else bool(first == second)
