"""Sound models: their gradients describe them, and no diagnostic should fail."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.broken_models.case import ModelKind
from benchmarks.broken_models.composed_kinds import (
    BilateralFilter,
    LinearAutoencoder,
    MaxOverShifts,
    build_members,
)
from benchmarks.broken_models.input_kinds import BlockwiseJPEG, FunctionLayer, round_to_levels
from benchmarks.broken_models.networks import NETWORKS, BaseNetwork, PixelNetwork
from benchmarks.broken_models.output_kinds import multiply_logits
from benchmarks.broken_models.surgery import (
    collect_inputs,
    fit_linear,
    insert_after_stem,
    postprocess,
    preprocess,
)
from robustbench_local.bpda import apply_straight_through

_RANDOM_WEIGHTS_SEED = 11


class MeanLogits(nn.Module):
    """The mean of the members' logits."""

    def __init__(self, members: list[PixelNetwork]) -> None:
        super().__init__()
        self.members, self.num_classes = nn.ModuleList(members), members[0].num_classes

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([member(images) for member in self.members]).mean(dim=0)


class DoublePrecision(nn.Module):
    """The network in float64."""

    def __init__(self, network: PixelNetwork) -> None:
        super().__init__()
        self.network, self.num_classes = network.double(), network.num_classes

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.double())


def blur_images(images: Tensor) -> Tensor:
    """A 3x3 binomial blur."""
    line = torch.tensor([0.25, 0.5, 0.25], dtype=images.dtype, device=images.device)
    kernel = (line[:, None] * line).expand(images.shape[1], 1, 3, 3)
    padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    return functional.conv2d(padded, kernel, groups=images.shape[1])


def enlarge_and_crop(images: Tensor) -> Tensor:
    """Enlarged by an eighth, bilinearly, and cut to the old size: border pixels do not count."""
    side = images.shape[-1]
    size = side + side // 8
    large = functional.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    first = (size - side) // 2
    return large[..., first : first + side, first : first + side]


def pad_border(images: Tensor) -> Tensor:
    """Two rows and columns on each side become black."""
    return functional.pad(images[..., 2:-2, 2:-2], (2, 2, 2, 2))


def filter_median(images: Tensor) -> Tensor:
    """A 3x3 median in torch: the slope belongs to the pixel in the middle."""
    padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    return padded.unfold(2, 3, 1).unfold(3, 3, 1).flatten(4).median(dim=4).values


def _round_straight_through(images: Tensor) -> Tensor:
    return apply_straight_through(partial(round_to_levels, levels=16), images)


class _DeclaredJPEG(nn.Module):
    """JPEG with the gradient of the identity: its maker declares the surrogate."""

    def __init__(self) -> None:
        super().__init__()
        self.codec = BlockwiseJPEG()

    def forward(self, images: Tensor) -> Tensor:
        return apply_straight_through(self.codec, images)


def _leave_in_training(base: BaseNetwork) -> nn.Module:
    """Dropout, forgotten in training mode; evaluation mode repairs it."""
    return insert_after_stem(base, nn.Dropout(0.3)).train()


def _make_vit() -> nn.Module:
    import timm  # noqa: PLC0415

    tokens = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=64, depth=3, num_heads=4, num_classes=0, global_pool=""
    )
    return nn.Sequential(tokens, nn.Flatten(), nn.Linear(17 * 64, 43))


def _make_squeeze_excite() -> nn.Module:
    from torchvision.ops import SqueezeExcitation  # noqa: PLC0415

    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 24), (24, 48)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.SiLU()]
        layers.append(SqueezeExcitation(outputs, outputs // 4))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48 * 16, 43))


def _make_resnet50() -> nn.Module:
    from torchvision.models import resnet50  # noqa: PLC0415

    return resnet50(num_classes=43)


def _make_pooling_network() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 24), (24, 48), (48, 48)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.GELU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(48 * 16, 43))


@cache
def _fit_random_network(factory: Callable[[], nn.Module]) -> nn.Module:
    """Random weights, and a last layer fitted to the labels of the rendered signs."""
    base = NETWORKS["signs"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_RANDOM_WEIGHTS_SEED)
        network = PixelNetwork(factory(), 43, ((0.4,) * 3, (0.25,) * 3)).eval().requires_grad_(False)
    images, labels = base.read_fitting_images()
    heads = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    features = collect_inputs(network, heads[-1], images)
    mean, std = features.mean(dim=0), features.std(dim=0).clamp_min(1e-6)
    targets = 10 * functional.one_hot(labels, 43).float()
    fitted = fit_linear((features - mean) / std, targets, ridge=0.1)
    head = nn.Linear(fitted.in_features, 43).requires_grad_(False)
    head.weight.data = fitted.weight / std
    head.bias.data = fitted.bias - head.weight @ mean
    network.set_submodule(heads[-1], head)
    return network


def _sound_kind(
    name: str, build: Callable[[BaseNetwork], nn.Module], networks: tuple[str, ...], **options: float
) -> ModelKind:
    return ModelKind(
        name=name,
        build=build,
        networks=networks,
        expected="nothing",
        is_sound=True,
        images=int(options.get("images", 0)),
        clean_floor=options.get("clean_floor", 0.4),
    )


def _mechanics_kind(name: str, factory: Callable[[], nn.Module], images: int) -> ModelKind:
    """A kind of layer at random weights; only the last layer is fitted."""
    return _sound_kind(name, lambda _: _fit_random_network(factory), ("signs",), images=images)


SOUND_KINDS = (
    _sound_kind(
        "unchanged",
        lambda base: base.build(),
        tuple(name for name in NETWORKS if name != "signs-distilled"),
    ),
    _sound_kind(
        "declared rounding",
        lambda base: preprocess(base, FunctionLayer(_round_straight_through)),
        ("cifar10", "signs-at"),
    ),
    _sound_kind("declared JPEG", lambda base: preprocess(base, _DeclaredJPEG()), ("signs",)),
    _sound_kind(
        "logits x10", lambda base: postprocess(base, partial(multiply_logits, factor=10.0)), ("cifar10",)
    ),
    _sound_kind(
        "logits x0.1", lambda base: postprocess(base, partial(multiply_logits, factor=0.1)), ("signs",)
    ),
    _sound_kind(
        "log-softmax output",
        lambda base: postprocess(base, partial(torch.log_softmax, dim=1)),
        ("mnist", "signs-at"),
    ),
    _sound_kind("float64", lambda base: DoublePrecision(base.build()).eval(), ("cifar10",)),
    _sound_kind("blur", lambda base: preprocess(base, FunctionLayer(blur_images)), ("cifar10", "signs")),
    _sound_kind(
        "enlarge and crop",
        lambda base: preprocess(base, FunctionLayer(enlarge_and_crop)),
        ("gtsrb", "signs-at"),
    ),
    _sound_kind("black border", lambda base: preprocess(base, FunctionLayer(pad_border)), ("mnist", "signs")),
    _sound_kind(
        "median in torch", lambda base: preprocess(base, FunctionLayer(filter_median)), ("cifar10", "signs")
    ),
    _sound_kind(
        "bilateral filter with graph",
        lambda base: preprocess(base, BilateralFilter(keeps_graph=True)),
        ("cifar10",),
        images=16,
    ),
    _sound_kind(
        "autoencoder with graph",
        lambda base: preprocess(
            base, LinearAutoencoder(base.read_fitting_images()[0], 150, keeps_graph=True)
        ),
        ("mnist", "signs"),
    ),
    _sound_kind(
        "mean of logits", lambda base: MeanLogits(build_members(base)).eval(), ("signs-at",), images=16
    ),
    _sound_kind(
        "maximum over shifts",
        lambda base: MaxOverShifts(base.build()).eval(),
        ("cifar10", "signs"),
        images=16,
    ),
    _sound_kind("left in training mode", _leave_in_training, ("cifar10", "signs")),
    _mechanics_kind("vision transformer", _make_vit, 16),
    _mechanics_kind("squeeze and excite", _make_squeeze_excite, 12),
    _mechanics_kind("max pooling and GELU", _make_pooling_network, 16),
    _mechanics_kind("ResNet-50", _make_resnet50, 4),
)
"""Sound kinds."""
