"""The operators of models whose graph is in sight: TorchScript, torch.export, torch.fx, quantized layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_TRAINING_ARGUMENTS = ("training", "train")
_QUANTIZED_PREFIXES = ("quantized", "torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torchao.")
_FAKE_PREFIXES = ("torch.ao.nn.qat", "torch.ao.nn.intrinsic.qat", "torch.ao.quantization.fake_quantize")
_DYNAMIC_OPERATORS = ("choose_qparams.tensor", "choose_qparams_symmetric", "quantize_per_tensor_dynamic")


@dataclass(frozen=True)
class Operator:
    """One operator of a graph.

    Args:
        name: Its name with namespace, such as ``aten::conv2d`` or ``aten.conv2d.default``; of a layer without
            a graph its class with the module.
        is_training: Whether the graph fixes its argument for training mode to true.
    """

    name: str
    is_training: bool = False


def iterate_operators(module: nn.Module) -> Iterator[Operator]:
    """Iterate over the operators of all graphs in a model, and over its layers, each by its class."""
    if isinstance(module, torch.jit.ScriptModule):
        graph = getattr(module, "inlined_graph", None)
        yield from () if graph is None else _iterate_script_nodes(graph)
        return
    yield Operator(f"{type(module).__module__}.{type(module).__qualname__}")
    if isinstance(module, torch.fx.GraphModule):
        for node in module.graph.nodes:
            if node.op == "call_function":
                yield Operator(str(node.target), _has_training_argument(node))
    for part in module.children():
        yield from iterate_operators(part)


def count_training_operators(module: nn.Module) -> tuple[int, int]:
    """Count the batch norms and the dropouts that a graph fixes in training mode."""
    names = [operator.name for operator in iterate_operators(module) if operator.is_training]
    dropouts = sum("dropout" in name for name in names)
    return len(names) - dropouts, dropouts


def is_quantized(module: nn.Module) -> bool:
    """Check whether a model rounds values to integers, or imitates that."""
    if any(type(value).__module__.startswith("torchao.") for value in module.parameters()):
        return True
    return any(
        "quantize" in operator.name or operator.name.startswith((*_QUANTIZED_PREFIXES, *_FAKE_PREFIXES))
        for operator in iterate_operators(module)
    )


def is_fake_quantized(module: nn.Module) -> bool:
    """Check whether a model imitates rounding in floats, as in quantization-aware training."""
    return any(
        "fake_quant" in operator.name or operator.name.startswith(_FAKE_PREFIXES)
        for operator in iterate_operators(module)
    )


def is_dynamically_quantized(module: nn.Module) -> bool:
    """Check whether a model takes the scale of its rounded activations from the batch it is asked about."""
    return any(
        (operator.name.startswith("quantized") and "_dynamic" in operator.name)
        or any(name in operator.name for name in _DYNAMIC_OPERATORS)
        or (operator.name.startswith(_QUANTIZED_PREFIXES) and ".dynamic." in operator.name)
        for operator in iterate_operators(module)
    )


def has_active_observers(module: nn.Module) -> bool:
    """Check whether a model under quantization-aware training still adapts its scales to what it is asked."""
    flags = (getattr(part, "observer_enabled", None) for part in module.modules())
    return any(isinstance(flag, torch.Tensor) and bool(flag.any()) for flag in flags)


def _iterate_script_nodes(graph: Any) -> Iterator[Operator]:
    for node in graph.nodes():
        yield Operator(node.kind(), _has_true_input(node))
        for block in node.blocks():
            yield from _iterate_script_nodes(block)


def _has_true_input(node: Any) -> bool:
    """Check whether a TorchScript node is told by a constant to work as in training."""
    if node.schema() == "(no schema)":
        return False
    arguments = torch._C.parse_schema(node.schema()).arguments  # noqa: SLF001 - nothing public reads a node's schema
    return any(
        argument.name in _TRAINING_ARGUMENTS
        and value.node().kind() == "prim::Constant"
        and value.toIValue() is True
        for argument, value in zip(arguments, node.inputs(), strict=False)
    )


def _has_training_argument(node: torch.fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return False
    given = {argument.name: value for argument, value in zip(schema.arguments, node.args, strict=False)}
    return any((given | dict(node.kwargs)).get(name) is True for name in _TRAINING_ARGUMENTS)


def keeps_state(module: torch.fx.GraphModule) -> bool:
    """Check whether an exported program changes any of its own tensors when it is called, or may do so."""
    if any(isinstance(part, torch.fx.GraphModule) for part in module.modules() if part is not module):
        return True  # a graph within, for a branch or a block without gradients
    roots = (root for node in module.graph.nodes for root in _find_written_roots(node))
    return any(root.op == "get_attr" for root in roots)


def _find_written_roots(node: torch.fx.Node) -> Iterator[torch.fx.Node]:
    """Iterate over the nodes whose memory a node writes to, behind all views of them."""
    schema = getattr(node.target, "_schema", None)
    for argument, value in zip(schema.arguments if schema else (), node.args, strict=False):
        if (
            argument.alias_info is None
            or not argument.alias_info.is_write
            or not isinstance(value, torch.fx.Node)
        ):
            continue
        root = value
        while (
            root.op == "call_function"
            and root.args
            and isinstance(root.args[0], torch.fx.Node)
            and _is_view(root)
        ):
            root = root.args[0]
        yield root


def _is_view(node: torch.fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(value.alias_info is not None for value in schema.returns)
