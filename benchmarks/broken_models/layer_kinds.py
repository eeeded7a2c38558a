"""Layers inside a network that stop, falsify or weaken the gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.broken_models.case import ModelKind
from benchmarks.broken_models.input_kinds import FunctionLayer
from benchmarks.broken_models.networks import BaseNetwork
from benchmarks.broken_models.surgery import insert_after_stem, replace_last_activation


def _make_false_backward(falsify: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The identity, with its slopes changed."""

    class FalseBackward(torch.autograd.Function):
        """The identity forwards."""

        @staticmethod
        def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004
            return values.view_as(values)

        @staticmethod
        def backward(ctx: Any, *slopes: Any) -> Any:  # noqa: ARG004
            return falsify(slopes[0])

    return FalseBackward.apply


def draw_random_slopes(slopes: Tensor) -> Tensor:
    """Noise of the slopes' size."""
    return torch.randn_like(slopes) * slopes.std().nan_to_num()


def zero_slopes(slopes: Tensor) -> Tensor:
    """No slope."""
    return torch.zeros_like(slopes)


def flip_slopes(slopes: Tensor) -> Tensor:
    """The way back down."""
    return -slopes


def shrink_slopes(slopes: Tensor) -> Tensor:
    """So small that float32 and most thresholds call it zero."""
    return 1e-30 * slopes


def shuffle_slopes(slopes: Tensor) -> Tensor:
    """The slopes of other pixels."""
    return slopes.flip(-1).roll(5, dims=-2)


def keep_largest(features: Tensor, share: float = 0.3) -> Tensor:
    """The largest activations over all channels and pixels; zero for the others.

    Source: Xiao et al. 2020, "Enhancing adversarial defense by k-winners-take-all".
    """
    flat = features.flatten(1)
    count = max(1, int(share * flat.shape[1]))
    limit = flat.topk(count, dim=1).values[:, -1:]
    return (flat * (flat >= limit)).view(features.shape)


def detach_values(features: Tensor) -> Tensor:
    """Cut the graph."""
    return features.detach()


def detach_channels(features: Tensor) -> Tensor:
    """Cut the graph of three channels of four; of images, of the lower three quarters of the rows."""
    dimension = 1 if features.shape[1] > 3 else 2
    keep = features.shape[dimension] // 4
    kept, cut = features.split([keep, features.shape[dimension] - keep], dim=dimension)
    return torch.cat([kept, cut.detach()], dim=dimension)


def round_mantissa(features: Tensor, bits: int = 3) -> Tensor:
    """Activations with a short mantissa, as some accelerators round them; ``round`` has no slope."""
    mantissa, exponent = torch.frexp(features)
    return torch.ldexp(torch.round(mantissa * 2**bits) / 2**bits, exponent)


def add_false_norm(features: Tensor) -> Tensor:
    """Adds the root of zero, whose slope is not finite."""
    extra = torch.sqrt((features * 0).flatten(1).sum(dim=1))
    return features + extra.view(-1, *[1] * (features.ndim - 1))


def take_steep_sigmoid(features: Tensor) -> Tensor:
    """Nearly a step."""
    return torch.sigmoid(40 * features)


def take_steep_tanh(features: Tensor) -> Tensor:
    """Nearly a sign."""
    return torch.tanh(40 * features)


def take_arithmetic_sigmoid(features: Tensor) -> Tensor:
    """A steep sigmoid by arithmetic, which no name of a function tells."""
    return 1 / (1 + torch.exp((-40 * features).clamp(max=80)))


def take_bounded_ramp(features: Tensor) -> Tensor:
    """A steep ramp between two constants."""
    return torch.minimum(torch.maximum(50 * features + 0.5, torch.zeros(())), torch.ones(()))


def take_steep_root(features: Tensor) -> Tensor:
    """Nearly a sign, by a root."""
    return features / (features.square() + 1e-4).sqrt()


def take_hard_sign(features: Tensor) -> Tensor:
    """The sign, with slope zero."""
    return torch.sign(features)


def take_clamped(features: Tensor) -> Tensor:
    """Units that are dead or saturated nearly everywhere: outside a hundredth of a deviation, no slope."""
    return (100 * features).clamp(0, 1)


class _GradientOff(nn.Module):
    """A network that never records a graph."""

    def __init__(self, network: nn.Module, context: Callable[[], Any]) -> None:
        super().__init__()
        self.network, self.num_classes, self.context = network, network.num_classes, context

    def forward(self, images: Tensor) -> Tensor:
        with self.context():
            logits = self.network(images)
        return logits.clone()


class _HalfPrecisionPixels(nn.Module):
    """Pixels pass through float16, and their slopes too: those below 6e-8 vanish."""

    def __init__(self, network: nn.Module, scale: float = 2.0**15) -> None:
        super().__init__()
        self.network, self.num_classes, self.scale = network, network.num_classes, scale

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images * self.scale).half().float() / self.scale) / 1024


def _quantize_linear_layers(base: BaseNetwork) -> nn.Module:
    """Integer arithmetic in the linear layers, by torch's own dynamic quantization."""
    import warnings  # noqa: PLC0415 - torch says that this way of quantizing is old

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = base.build()
        return torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8).eval()


def _stem_kind(
    name: str, change: Callable[[Tensor], Tensor], networks: tuple[str, ...], expected: str
) -> ModelKind:
    return ModelKind(
        name=name,
        build=lambda base: insert_after_stem(base, FunctionLayer(change)),
        networks=networks,
        expected=expected,
    )


def _activation_kind(
    name: str, activation: Callable[[Tensor], Tensor], networks: tuple[str, ...], expected: str
) -> ModelKind:
    return ModelKind(
        name=name,
        build=lambda base: replace_last_activation(base, activation),
        networks=networks,
        expected=expected,
    )


def _backward_kind(
    name: str, falsify: Callable[[Tensor], Tensor], networks: tuple[str, ...], expected: str
) -> ModelKind:
    return _stem_kind(name, _make_false_backward(falsify), networks, expected)


LAYER_KINDS = (
    _stem_kind("k-winners-take-all", keep_largest, ("mnist", "signs"), "D7; smoothed backward, score-based"),
    _stem_kind("detached features", detach_values, ("cifar10", "signs-at"), "D6a; BPDA through the layer"),
    _stem_kind("partly detached features", detach_channels, ("cifar10", "signs", "gtsrb"), "D7; BPDA"),
    _stem_kind("rounded activations", round_mantissa, ("cifar10", "signs"), "D6b; BPDA"),
    _stem_kind("root of zero", add_false_norm, ("cifar10", "signs-at"), "not finite gradients"),
    _backward_kind("zero backward", zero_slopes, ("cifar10", "signs"), "D6b; BPDA"),
    _backward_kind("random backward", draw_random_slopes, ("mnist", "signs-at"), "D7; BPDA"),
    _backward_kind("flipped backward", flip_slopes, ("cifar10", "signs"), "D7, D15; BPDA"),
    _backward_kind("tiny backward", shrink_slopes, ("cifar10", "signs"), "D6c; rescaled"),
    _backward_kind("shuffled backward", shuffle_slopes, ("mnist", "signs"), "D7; BPDA"),
    _activation_kind(
        "steep sigmoid", take_steep_sigmoid, ("cifar10", "gtsrb", "signs"), "D6b, D7; smoothed backward"
    ),
    _activation_kind("steep tanh", take_steep_tanh, ("mnist", "signs-at"), "D6b, D7; smoothed backward"),
    _activation_kind(
        "sigmoid by arithmetic", take_arithmetic_sigmoid, ("cifar10", "signs"), "D6b, D7; mean slopes"
    ),
    _activation_kind("bounded ramp", take_bounded_ramp, ("cifar10", "signs-at"), "D6b, D7; mean slopes"),
    _activation_kind("steep root", take_steep_root, ("cifar10", "signs"), "D7; mean slopes"),
    _activation_kind("sign activations", take_hard_sign, ("cifar10", "signs"), "D6b; smoothed backward"),
    _activation_kind("dead units", take_clamped, ("mnist", "signs-at"), "D6b; smoothed backward"),
    ModelKind(
        name="no_grad forward",
        build=lambda base: _GradientOff(base.build(), torch.no_grad).eval(),
        networks=("cifar10", "signs"),
        expected="D6a; network underneath",
    ),
    ModelKind(
        name="inference_mode forward",
        build=lambda base: _GradientOff(base.build(), torch.inference_mode).eval(),
        networks=("mnist", "signs-at"),
        expected="D6a; network underneath",
    ),
    ModelKind(
        name="int8 linear layers",
        build=_quantize_linear_layers,
        networks=("mnist", "signs"),
        expected="D6a; student or score-based",
    ),
    ModelKind(
        name="float16 underflow",
        build=lambda base: _HalfPrecisionPixels(base.build()).eval(),
        networks=("cifar10", "signs"),
        expected="D6b, D7; BPDA",
    ),
)
"""Kinds that change a layer."""
