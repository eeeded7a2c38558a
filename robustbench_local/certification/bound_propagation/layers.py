"""The mapping from layers, functions and methods of a traced network to operations."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from robustbench_local.certification.bound_propagation.node_context import NodeContext, UnsupportedNodeError
from robustbench_local.certification.bound_propagation.operations import (
    Activation,
    Affine,
    Convolution,
    Dense,
    Diagonal,
    Operation,
    Reshape,
    Shape,
    Sum,
)

_NodeReader = Callable[[fx.Node, NodeContext], Operation | None]


def is_supported(node: fx.Node, module: nn.Module) -> bool:
    """Return whether a node's layer, function or method has bounds; some settings are refused later."""
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))) in _LAYERS
    return node.target in (_METHODS if node.op == "call_method" else _FUNCTIONS)


def build_operation(node: fx.Node, context: NodeContext) -> Operation | None:
    """Return the operation of a node that depends on the images; None for the identity.

    Raises:
        UnsupportedNodeError: If there are no bounds for it.
    """
    if not is_supported(node, context.module):
        raise UnsupportedNodeError.from_node(node, context.module)
    if node.op == "call_module":
        layer = context.module.get_submodule(str(node.target))
        return _LAYERS[type(layer)](layer, *_read_shapes(node, context))
    read = _METHODS[str(node.target)] if node.op == "call_method" else _FUNCTIONS[node.target]
    return read(node, context)


def _get_result(node: fx.Node, context: NodeContext) -> Tensor:
    value: Tensor = context.values[node]
    return value


def _expand_pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


# Layers


def _build_convolution(layer: nn.Conv2d, source: Shape, target: Shape) -> Operation:
    padding = layer.padding
    if padding == "valid":
        padding = (0, 0)
    if isinstance(padding, str):
        reach = [step * (size - 1) for step, size in zip(layer.dilation, layer.kernel_size, strict=True)]
        if any(size % 2 for size in reach):
            raise UnsupportedNodeError("is a Conv2d padded on one side", "give it an odd kernel")
        padding = (reach[0] // 2, reach[1] // 2)
    if layer.padding_mode != "zeros" and any(padding):
        raise UnsupportedNodeError(f"is a Conv2d with padding_mode {layer.padding_mode}", "pad with zeros")
    return Convolution(
        lambda: layer.weight,
        lambda: layer.bias,
        _expand_pair(layer.stride),
        _expand_pair(padding),
        _expand_pair(layer.dilation),
        layer.groups,
        source,
        target,
    )


def _build_dense(layer: nn.Linear, source: Shape, target: Shape) -> Operation:  # noqa: ARG001  one signature for all
    return Dense(lambda: layer.weight, lambda: layer.bias)


def _build_batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d, source: Shape, target: Shape) -> Operation:  # noqa: ARG001
    if layer.running_mean is None or layer.running_var is None:
        raise UnsupportedNodeError(
            "is a batch norm without running statistics", "train it with track_running_stats"
        )

    def read(like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        def spread(values: Tensor) -> Tensor:
            return values.to(like).view(-1, *[1] * (len(source) - 1))

        mean, variance = spread(layer.running_mean), spread(layer.running_var)  # type: ignore[arg-type]
        scale = torch.rsqrt(variance + layer.eps)
        if layer.weight is not None:
            scale = scale * spread(layer.weight)
        shift = torch.zeros_like(scale) if layer.bias is None else spread(layer.bias)
        return scale, shift - mean * scale, shift.abs() + (mean * scale).abs()

    return Diagonal(read)


def _build_averaging(
    source: Shape, target: Shape, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> Operation:
    """Build average pooling as a convolution of each channel with equal weights."""
    weight = torch.full((source[0], 1, *kernel), 1.0 / (kernel[0] * kernel[1]), dtype=torch.float64)
    return Convolution(lambda: weight, lambda: None, stride, padding, (1, 1), source[0], source, target)


def _build_pool(source: Shape, target: Shape, options: Mapping[str, Any]) -> Operation:
    kernel, padding = _expand_pair(options["kernel_size"]), _expand_pair(options.get("padding") or 0)
    stride = _expand_pair(options.get("stride") or kernel)
    if len(source) != 3:
        raise UnsupportedNodeError("is an average pool without channels")
    whole = all(
        (size + 2 * pad - window) // step + 1 == made
        for size, pad, window, step, made in zip(source[1:], padding, kernel, stride, target[1:], strict=True)
    )
    includes = options.get("count_include_pad", True) or not any(padding)
    if not whole or not includes or options.get("divisor_override"):
        reason = "is an average pool with ceil_mode, count_include_pad=False or divisor_override"
        raise UnsupportedNodeError(reason, "use a plain average pool")
    return _build_averaging(source, target, kernel, stride, padding)


def _build_average_pool(layer: nn.AvgPool2d, source: Shape, target: Shape) -> Operation:
    names = ("kernel_size", "stride", "padding", "count_include_pad", "divisor_override")
    return _build_pool(source, target, {name: getattr(layer, name) for name in names})


def _build_adaptive_pool(layer: nn.Module | None, source: Shape, target: Shape) -> Operation:  # noqa: ARG001
    if len(source) != 3 or any(size % made for size, made in zip(source[1:], target[1:], strict=True)):
        raise UnsupportedNodeError(
            f"pools {source[1:]} to {target[1:]} in windows of unequal size", "let the size divide"
        )
    kernel = (source[1] // target[1], source[2] // target[2])
    return _build_averaging(source, target, kernel, kernel, (0, 0))


def _build_reshape(layer: nn.Module | None, source: Shape, target: Shape) -> Operation | None:  # noqa: ARG001
    return None if source == target else Reshape(source, target)


def _build_nothing(layer: nn.Module | None, source: Shape, target: Shape) -> None:  # noqa: ARG001
    return None


def _build_activation(slope: Any) -> Operation:
    if not isinstance(slope, int | float):
        raise UnsupportedNodeError("is a leaky ReLU whose slope is a tensor", "use a number between 0 and 1")
    if not 0 <= slope <= 1:
        raise UnsupportedNodeError(f"is a leaky ReLU with slope {slope:g}", "use a slope between 0 and 1")
    return Activation(float(slope))


_LAYERS: Mapping[type[nn.Module], Callable[[Any, Shape, Shape], Operation | None]] = {
    nn.Conv2d: _build_convolution,
    nn.Linear: _build_dense,
    nn.BatchNorm1d: _build_batch_norm,
    nn.BatchNorm2d: _build_batch_norm,
    nn.AvgPool2d: _build_average_pool,
    nn.AdaptiveAvgPool2d: _build_adaptive_pool,
    nn.Flatten: _build_reshape,
    nn.Unflatten: _build_reshape,
    nn.Identity: _build_nothing,
    nn.Dropout: _build_nothing,
    nn.Dropout2d: _build_nothing,
    nn.ReLU: lambda layer, source, target: Activation(),  # noqa: ARG005
    nn.LeakyReLU: lambda layer, source, target: _build_activation(layer.negative_slope),  # noqa: ARG005
}


# Functions and methods


def _read_shapes(node: fx.Node, context: NodeContext) -> tuple[Shape, Shape]:
    source = node.args[0]
    if not isinstance(source, fx.Node) or source not in context.image_nodes:
        raise UnsupportedNodeError("does not take the images as its first argument")
    return context.get_shape(source), tuple(_get_result(node, context).shape[1:])


def _wrap_shape_builder(
    make: Callable[[Any, Shape, Shape], Operation | None],
) -> Callable[[fx.Node, NodeContext], Operation | None]:
    """Wrap a function that needs the shapes only."""
    return lambda node, context: make(None, *_read_shapes(node, context))


def _read_relu(node: fx.Node, context: NodeContext) -> Operation:  # noqa: ARG001
    return Activation()


def _read_leaky_relu(node: fx.Node, context: NodeContext) -> Operation:
    return _build_activation(_read_option(node, context, "negative_slope", 0.01))


def _read_average_pool(node: fx.Node, context: NodeContext) -> Operation:
    names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    options = dict(zip(names, node.args[1:], strict=False)) | node.kwargs
    return _build_pool(*_read_shapes(node, context), context.read_constants(options))


def _read_mean(node: fx.Node, context: NodeContext) -> Operation | None:
    source, target = _read_shapes(node, context)
    axes = _read_option(node, context, "dim", None)
    if len(source) != 3 or sorted(axis % 4 for axis in _list_axes(axes)) != [2, 3]:
        raise UnsupportedNodeError(
            "is a mean over other axes than height and width", "use AdaptiveAvgPool2d(1)"
        )
    return _build_adaptive_pool(None, source, (*target[:1], 1, 1))


def _read_option(node: fx.Node, context: NodeContext, name: str, default: Any) -> Any:
    """Return the second argument of a function, or the one of that name."""
    return context.read_constants(node.kwargs.get(name, node.args[1] if len(node.args) > 1 else default))


def _list_axes(given: Any) -> tuple[int, ...]:
    return tuple(given) if isinstance(given, list | tuple) else () if given is None else (given,)


def _build_arithmetic_reader(kind: str) -> _NodeReader:
    return lambda node, context: _read_arithmetic(kind, node, context)


def _read_arithmetic(kind: str, node: fx.Node, context: NodeContext) -> Operation:
    """Read a sum or difference of two nodes, or any arithmetic of a node and a constant."""
    if node.kwargs or len(node.args) != 2:
        raise UnsupportedNodeError(f"is {kind} without exactly two arguments", "write it out")
    first, second = node.args
    is_image = [isinstance(value, fx.Node) and value in context.image_nodes for value in (first, second)]
    sign = -1.0 if kind == "sub" else 1.0
    if all(is_image):
        shapes = {context.get_shape(value) for value in (first, second) if isinstance(value, fx.Node)}
        if kind not in {"add", "sub"} or len(shapes) > 1:
            raise UnsupportedNodeError(
                f"is the {kind} of two nodes of the network", "add nodes of equal shape"
            )
        return Sum(sign)
    if kind == "div" and is_image[1]:
        raise UnsupportedNodeError("divides by the images")
    read = context.build_constant_reader(second if is_image[0] else first)
    _check_constant_shape(kind, torch.as_tensor(read()).shape, node, context)
    return _build_constant_map(kind, read, images_first=is_image[0])


def _check_constant_shape(kind: str, constant: Shape, node: fx.Node, context: NodeContext) -> None:
    """Refuse a constant that changes the shape of values, or that differs between images of a batch."""
    source = next(context.get_shape(value) for value in node.all_input_nodes if value in context.image_nodes)
    same = tuple(_get_result(node, context).shape[1:]) == source
    if not same or (len(constant) > len(source) and constant[0] != 1):
        reason = f"is the {kind} of values {source} and a constant {tuple(constant)}"
        raise UnsupportedNodeError(reason, f"use a constant that broadcasts to {source}")


def _build_constant_map(kind: str, read: Callable[[], Any], *, images_first: bool) -> Affine:
    def parts(like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        constant = torch.as_tensor(read()).to(like)
        if constant.ndim > 1 and len(constant) == 1:
            constant = constant[0]
        ones, zeros = torch.ones_like(constant), torch.zeros_like(constant)
        if kind == "mul":
            return constant, zeros, zeros
        if kind == "div":
            return 1 / constant, zeros, zeros
        if kind == "add":
            return ones, constant, constant.abs()
        return (ones, -constant, constant.abs()) if images_first else (-ones, constant, constant.abs())

    return Diagonal(parts, operation_count=3)  # rounding of constant, reciprocal and result


_read_reshape, _read_unchanged = _wrap_shape_builder(_build_reshape), _wrap_shape_builder(_build_nothing)
_read_adaptive_pool = _wrap_shape_builder(_build_adaptive_pool)
_read_add, _read_sub, _read_mul, _read_div = (
    _build_arithmetic_reader(kind) for kind in ("add", "sub", "mul", "div")
)

_FUNCTIONS: Mapping[Any, _NodeReader] = {
    torch.relu: _read_relu,
    functional.relu: _read_relu,
    functional.leaky_relu: _read_leaky_relu,
    functional.avg_pool2d: _read_average_pool,
    functional.adaptive_avg_pool2d: _read_adaptive_pool,
    functional.dropout: _read_unchanged,
    torch.flatten: _read_reshape,
    torch.reshape: _read_reshape,
    torch.squeeze: _read_reshape,
    torch.unsqueeze: _read_reshape,
    torch.mean: _read_mean,
    torch.add: _read_add,
    operator.add: _read_add,
    operator.iadd: _read_add,
    torch.sub: _read_sub,
    operator.sub: _read_sub,
    operator.isub: _read_sub,
    torch.mul: _read_mul,
    operator.mul: _read_mul,
    operator.imul: _read_mul,
    torch.div: _read_div,
    operator.truediv: _read_div,
    operator.itruediv: _read_div,
}
_METHODS: Mapping[str, _NodeReader] = {
    "relu": _read_relu,
    "relu_": _read_relu,
    "contiguous": _read_unchanged,
    "clone": _read_unchanged,
    "float": _read_unchanged,
    "double": _read_unchanged,
    "to": _read_unchanged,
    "flatten": _read_reshape,
    "view": _read_reshape,
    "reshape": _read_reshape,
    "squeeze": _read_reshape,
    "unsqueeze": _read_reshape,
    "mean": _read_mean,
    "add": _read_add,
    "add_": _read_add,
    "sub": _read_sub,
    "mul": _read_mul,
    "div": _read_div,
}
