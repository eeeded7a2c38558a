"""Which operation a layer, function or method of a traced network is."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from robustbench_local.certification.bound_propagation.node_context import Place, Unsupported
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

_FromNode = Callable[[fx.Node, Place], Operation | None]


def supported(node: fx.Node, module: nn.Module) -> bool:
    """Whether a node's layer, function or method has bounds; a few settings of some are refused later."""
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))) in _LAYERS
    return node.target in (_METHODS if node.op == "call_method" else _FUNCTIONS)


def operation(node: fx.Node, place: Place) -> Operation | None:
    """The operation of a node that depends on the images; None if it leaves values and shape alone.

    Raises:
        Unsupported: If there are no bounds for it.
    """
    if not supported(node, place.module):
        raise Unsupported.at(node, place.module)
    if node.op == "call_module":
        layer = place.module.get_submodule(str(node.target))
        return _LAYERS[type(layer)](layer, *_sourced(node, place))
    read = _METHODS[str(node.target)] if node.op == "call_method" else _FUNCTIONS[node.target]
    return read(node, place)


def _result(node: fx.Node, place: Place) -> Tensor:
    value: Tensor = place.values[node]
    return value


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


# Layers


def _convolution(layer: nn.Conv2d, source: Shape, target: Shape) -> Operation:
    padding = layer.padding
    if padding == "valid":
        padding = (0, 0)
    if isinstance(padding, str):
        reach = [step * (size - 1) for step, size in zip(layer.dilation, layer.kernel_size, strict=True)]
        if any(each % 2 for each in reach):
            raise Unsupported("is a Conv2d padded on one side", "give it an odd kernel")
        padding = (reach[0] // 2, reach[1] // 2)
    if layer.padding_mode != "zeros" and any(padding):
        raise Unsupported(f"is a Conv2d with padding_mode {layer.padding_mode}", "pad with zeros")
    return Convolution(
        lambda: layer.weight,
        lambda: layer.bias,
        _pair(layer.stride),
        _pair(padding),
        _pair(layer.dilation),
        layer.groups,
        source,
        target,
    )


def _dense(layer: nn.Linear, source: Shape, target: Shape) -> Operation:  # noqa: ARG001  one signature for all
    return Dense(lambda: layer.weight, lambda: layer.bias)


def _batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d, source: Shape, target: Shape) -> Operation:  # noqa: ARG001
    if layer.running_mean is None or layer.running_var is None:
        raise Unsupported("is a batch norm without running statistics", "train it with track_running_stats")

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


def _average(
    source: Shape, target: Shape, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> Operation:
    """An average pool is a convolution of each channel with equal weights."""
    weight = torch.full((source[0], 1, *kernel), 1.0 / (kernel[0] * kernel[1]), dtype=torch.float64)
    return Convolution(lambda: weight, lambda: None, stride, padding, (1, 1), source[0], source, target)


def _pool(source: Shape, target: Shape, options: Mapping[str, Any]) -> Operation:
    kernel, padding = _pair(options["kernel_size"]), _pair(options.get("padding") or 0)
    stride = _pair(options.get("stride") or kernel)
    if len(source) != 3:
        raise Unsupported("is an average pool without channels")
    whole = all(
        (size + 2 * pad - window) // step + 1 == made
        for size, pad, window, step, made in zip(source[1:], padding, kernel, stride, target[1:], strict=True)
    )
    includes = options.get("count_include_pad", True) or not any(padding)
    if not whole or not includes or options.get("divisor_override"):
        what = "is an average pool with ceil_mode, count_include_pad=False or divisor_override"
        raise Unsupported(what, "use a plain average pool")
    return _average(source, target, kernel, stride, padding)


def _average_pool(layer: nn.AvgPool2d, source: Shape, target: Shape) -> Operation:
    names = ("kernel_size", "stride", "padding", "count_include_pad", "divisor_override")
    return _pool(source, target, {name: getattr(layer, name) for name in names})


def _adaptive_pool(layer: nn.Module | None, source: Shape, target: Shape) -> Operation:  # noqa: ARG001
    if len(source) != 3 or any(size % made for size, made in zip(source[1:], target[1:], strict=True)):
        raise Unsupported(
            f"pools {source[1:]} to {target[1:]} in windows of unequal size", "let the size divide"
        )
    kernel = (source[1] // target[1], source[2] // target[2])
    return _average(source, target, kernel, kernel, (0, 0))


def _reshape(layer: nn.Module | None, source: Shape, target: Shape) -> Operation | None:  # noqa: ARG001
    return None if source == target else Reshape(source, target)


def _nothing(layer: nn.Module | None, source: Shape, target: Shape) -> None:  # noqa: ARG001
    return None


def _leaky(slope: Any) -> Operation:
    if not isinstance(slope, int | float):
        raise Unsupported("is a leaky ReLU whose slope is a tensor", "use a number between 0 and 1")
    if not 0 <= slope <= 1:
        raise Unsupported(f"is a leaky ReLU with slope {slope:g}", "use a slope between 0 and 1")
    return Activation(float(slope))


_LAYERS: Mapping[type[nn.Module], Callable[[Any, Shape, Shape], Operation | None]] = {
    nn.Conv2d: _convolution,
    nn.Linear: _dense,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.AvgPool2d: _average_pool,
    nn.AdaptiveAvgPool2d: _adaptive_pool,
    nn.Flatten: _reshape,
    nn.Unflatten: _reshape,
    nn.Identity: _nothing,
    nn.Dropout: _nothing,
    nn.Dropout2d: _nothing,
    nn.ReLU: lambda layer, source, target: Activation(),  # noqa: ARG005
    nn.LeakyReLU: lambda layer, source, target: _leaky(layer.negative_slope),  # noqa: ARG005
}


# Functions and methods


def _sourced(node: fx.Node, place: Place) -> tuple[Shape, Shape]:
    source = node.args[0]
    if not isinstance(source, fx.Node) or source not in place.images:
        raise Unsupported("takes the images as something else than its first argument")
    return place.shape(source), tuple(_result(node, place).shape[1:])


def _shaped(
    make: Callable[[Any, Shape, Shape], Operation | None],
) -> Callable[[fx.Node, Place], Operation | None]:
    """A function that needs the shapes only."""
    return lambda node, place: make(None, *_sourced(node, place))


def _relu(node: fx.Node, place: Place) -> Operation:  # noqa: ARG001
    return Activation()


def _leaky_relu(node: fx.Node, place: Place) -> Operation:
    return _leaky(_option(node, place, "negative_slope", 0.01))


def _pooled(node: fx.Node, place: Place) -> Operation:
    names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    given = dict(zip(names, node.args[1:], strict=False)) | node.kwargs
    return _pool(*_sourced(node, place), place.constants(given))


def _mean(node: fx.Node, place: Place) -> Operation | None:
    source, target = _sourced(node, place)
    axes = _option(node, place, "dim", None)
    if len(source) != 3 or sorted(axis % 4 for axis in _axes(axes)) != [2, 3]:
        raise Unsupported("is a mean over other axes than height and width", "use AdaptiveAvgPool2d(1)")
    return _adaptive_pool(None, source, (*target[:1], 1, 1))


def _option(node: fx.Node, place: Place, name: str, default: Any) -> Any:
    """The second argument of a function, or the one of that name."""
    return place.constants(node.kwargs.get(name, node.args[1] if len(node.args) > 1 else default))


def _axes(given: Any) -> tuple[int, ...]:
    return tuple(given) if isinstance(given, list | tuple) else () if given is None else (given,)


def _arithmetic(kind: str) -> _FromNode:
    return lambda node, place: _combined(kind, node, place)


def _combined(kind: str, node: fx.Node, place: Place) -> Operation:
    """A sum or difference of two places, or anything of a place and a constant."""
    if node.kwargs or len(node.args) != 2:
        raise Unsupported(f"is {kind} with other arguments than two", "write it out")
    first, second = node.args
    here = [isinstance(each, fx.Node) and each in place.images for each in (first, second)]
    sign = -1.0 if kind == "sub" else 1.0
    if all(here):
        shapes = {place.shape(each) for each in (first, second) if isinstance(each, fx.Node)}
        if kind not in {"add", "sub"} or len(shapes) > 1:
            raise Unsupported(f"is the {kind} of two places of the network", "add places of equal shape")
        return Sum(sign)
    if kind == "div" and here[1]:
        raise Unsupported("divides by the images")
    read = place.constant(second if here[0] else first)
    _check_fits(kind, torch.as_tensor(read()).shape, node, place)
    return _with_constant(kind, read, images_first=here[0])


def _check_fits(kind: str, constant: Shape, node: fx.Node, place: Place) -> None:
    """Refuse a constant that gives values another shape, or each image of a batch a number of its own."""
    source = next(place.shape(each) for each in node.all_input_nodes if each in place.images)
    same = tuple(_result(node, place).shape[1:]) == source
    if not same or (len(constant) > len(source) and constant[0] != 1):
        what = f"is the {kind} of values {source} and a constant {tuple(constant)}"
        raise Unsupported(what, f"use a constant that broadcasts to {source}")


def _with_constant(kind: str, read: Callable[[], Any], *, images_first: bool) -> Affine:
    def parts(like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        constant = torch.as_tensor(read()).to(like)
        if constant.ndim > 1 and len(constant) == 1:
            constant = constant[0]
        one, none = torch.ones_like(constant), torch.zeros_like(constant)
        if kind == "mul":
            return constant, none, none
        if kind == "div":
            return 1 / constant, none, none
        if kind == "add":
            return one, constant, constant.abs()
        return (one, -constant, constant.abs()) if images_first else (-one, constant, constant.abs())

    return Diagonal(parts, operations=3)  # the constant is rounded, its reciprocal, and the result


_reshaped, _same = _shaped(_reshape), _shaped(_nothing)
_adapted = _shaped(_adaptive_pool)
_add, _sub, _mul, _div = (_arithmetic(kind) for kind in ("add", "sub", "mul", "div"))

_FUNCTIONS: Mapping[Any, _FromNode] = {
    torch.relu: _relu,
    functional.relu: _relu,
    functional.leaky_relu: _leaky_relu,
    functional.avg_pool2d: _pooled,
    functional.adaptive_avg_pool2d: _adapted,
    functional.dropout: _same,
    torch.flatten: _reshaped,
    torch.reshape: _reshaped,
    torch.squeeze: _reshaped,
    torch.unsqueeze: _reshaped,
    torch.mean: _mean,
    torch.add: _add,
    operator.add: _add,
    operator.iadd: _add,
    torch.sub: _sub,
    operator.sub: _sub,
    operator.isub: _sub,
    torch.mul: _mul,
    operator.mul: _mul,
    operator.imul: _mul,
    torch.div: _div,
    operator.truediv: _div,
    operator.itruediv: _div,
}
_METHODS: Mapping[str, _FromNode] = {
    "relu": _relu,
    "relu_": _relu,
    "contiguous": _same,
    "clone": _same,
    "float": _same,
    "double": _same,
    "to": _same,
    "flatten": _reshaped,
    "view": _reshaped,
    "reshape": _reshaped,
    "squeeze": _reshaped,
    "unsqueeze": _reshaped,
    "mean": _mean,
    "add": _add,
    "add_": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
}
