"""Usual mistakes of preprocessing: what a network may be made for, where it gets something else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import yaml
from torch import Tensor

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.device import find_computing_dtype
from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.classifier.literals import ChannelOrder, Interpolation
from robustbench_local.classifier.normalizations import NORMALIZATIONS, Normalization
from robustbench_local.classifier.preprocessing import Preprocessing

WHITE = 255.0
"""Value of white in images of 8 bits."""
MAX_SMALL_SIDE_PIXELS = 64
"""Largest side of images that are more likely those of CIFAR-10 than of ImageNet."""
CROP_SHARE = 0.875
"""Side of the crop as a share of the shorter side that images are resized to: 224 of 256."""
_CAFFE_MEANS = (123.68, 116.779, 103.939)
"""Means of red, green and blue that networks of Caffe subtract from pixels of 0 to 255."""
_DIGITS = 6
"""Decimal places of a normalization that undoes another."""
_ONCE_MORE: Normalization = ((0.0,), (WHITE,))
"""Division by 255, for images that a network was trained on after two such divisions."""


@dataclass(frozen=True, kw_only=True)
class InputVariant:
    """What a network may be made for: an input contract, and a change of the image itself."""

    contract: InputContract
    """How the images are taken."""
    normalization_name: str = ""
    """The normalization in words that follow "with"."""
    change: str = ""
    """``"inverted"``, ``"transposed"``, or empty."""
    is_source: bool = False
    """Whether the contract is that of the model's source, which the user has overridden."""

    def change_images(self, images: Tensor) -> Tensor:
        """Return images (N, C, H, W) in [0, 1] as the variant has them, before the contract."""
        return _CHANGES[self.change](images)

    def count_differences(self, base: InputContract) -> int:
        """Return in how many settings it differs from a contract."""
        return len(_list_differences(self.contract, base)) + bool(self.change)

    def describe_differences(self, base: InputContract) -> str:
        """Describe in words that follow "with" how it differs from a contract."""
        contract, changed = self.contract, _list_differences(self.contract, base)
        if self.is_source:
            return f"the preprocessing of its source ({contract.origin_words})"
        parts = []
        if "channel_order" in changed:
            parts.append(f"{contract.channel_order.upper()} channels")
        if "value_scale" in changed:
            parts.append(f"pixels of 0 to {contract.value_scale:g}")
        if "normalization" in changed:
            parts.append(self.normalization_name)
        if "interpolation" in changed:
            parts.append(f"{contract.interpolation} interpolation")
        if "resize" in changed:
            parts.append(f"images {contract.format_geometry()}")
        if self.change:
            parts.append(_CHANGE_WORDS[self.change])
        return " and ".join(parts)

    def format_remedy(self, base: InputContract) -> tuple[str, bool]:
        """Return what to do, and whether it is one or two keys for the model's entry in a grid file."""
        if self.is_source:
            return "leave normalize, input_size and preprocessing out of its entry", False
        if self.change:
            return f"mend the data, whose images are {_CHANGE_FAULTS[self.change]} for this model", False
        contract, changed = self.contract, _list_differences(self.contract, base)
        lines = []
        if "normalization" in changed:
            lines.append(f"normalize: {format_normalization(contract.normalization)}")
        inner: dict[str, object] = {}
        if "channel_order" in changed:
            inner["channel_order"] = contract.channel_order
        if "value_scale" in changed:
            scale = contract.value_scale
            inner["value_scale"] = int(scale) if scale.is_integer() else scale
        if "interpolation" in changed:
            inner["interpolation"] = contract.interpolation
        if "resize" in changed:
            inner["resize"] = "stretch" if contract.resize is None else contract.resize
        if inner:
            lines.append(f"preprocessing: {_dump_flow(inner)}")
        return "\n".join(lines), True


_CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda images: images,
    "inverted": lambda images: 1 - images,
    "transposed": lambda images: images.transpose(2, 3),
}
_CHANGE_WORDS = {"inverted": "black and white exchanged", "transposed": "rows and columns exchanged"}
_CHANGE_FAULTS = {"inverted": "negatives", "transposed": "turned"}
_SETTINGS = ("channel_order", "value_scale", "normalization", "interpolation", "resize", "input_size")


def _list_differences(contract: InputContract, base: InputContract) -> list[str]:
    return [name for name in _SETTINGS if getattr(contract, name) != getattr(base, name)]


def _dump_flow(value: object) -> str:
    """Return a value as YAML in one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False).strip()


def format_normalization(normalization: Normalization | None) -> str:
    """Return a normalization as the value of ``normalize`` in a grid file: its name, or means and stds."""
    if normalization is None:
        return "none"
    key = next((key for key, known in NORMALIZATIONS.items() if known == normalization), None)
    mean, std = normalization
    return key or _dump_flow({"mean": list(mean), "std": list(std)})


def apply_contract(classifier: Classifier, contract: InputContract) -> Classifier:
    """Return a classifier that shares everything with another one but its preprocessing.

    Args:
        classifier: A classifier without a wrapper; unchanged.
        contract: How its images are taken instead.
    """
    twin = copy.copy(classifier)
    dtype = find_computing_dtype(classifier.module)
    twin._preprocessing = Preprocessing(contract, classifier.device, dtype)  # noqa: SLF001
    return twin


def list_input_variants(base: InputContract, shape: torch.Size, *, in_range: bool) -> list[InputVariant]:
    """List what a network may be made for instead of its contract, the most usual first.

    Args:
        base: The contract.
        shape: (C, H, W) of the images.
        in_range: Whether only pixels in [0, 1] may be sent, as to a service; means and deviations are then
            those of the contract.
    """
    channels, height, width = shape
    orders: tuple[ChannelOrder, ...] = ("rgb", "bgr") if channels == 3 else (base.channel_order,)
    source = base.overridden
    variants = [] if source is None or in_range else [InputVariant(contract=source, is_source=True)]
    variants += [InputVariant(contract=replace(base, channel_order=order)) for order in orders]
    variants += [InputVariant(contract=contract) for contract in _list_geometries(base, (height, width))]
    changes = ["inverted", *(["transposed"] if height == width else [])]
    variants += [InputVariant(contract=base, change=change) for change in changes]
    for normalization, name, scale in [] if in_range else _list_scalings(base, channels, max(height, width)):
        for order in orders:
            own = normalization
            if own is not None and order == "bgr" and scale == WHITE and len(own[0]) == len(_CAFFE_MEANS):
                own = (own[0][::-1], own[1][::-1])  # in the order of the network's channels
            contract = replace(base, channel_order=order, value_scale=scale, normalization=own)
            variants.append(InputVariant(contract=contract, normalization_name=name))
            if channels == 1:
                variants.append(InputVariant(contract=contract, normalization_name=name, change="inverted"))
    fresh: dict[tuple[InputContract, str], InputVariant] = {}
    for variant in variants:
        fresh.setdefault((variant.contract, variant.change), variant)
    return [variant for variant in fresh.values() if variant.count_differences(base)]


def _list_geometries(base: InputContract, size: tuple[int, int]) -> Iterator[InputContract]:
    """List other ways of bringing images of a size (H, W) to the network's."""
    if base.input_size is None or base.input_size == size:
        return
    other: Interpolation = "bilinear" if base.interpolation == "bicubic" else "bicubic"
    yield replace(base, interpolation=other)
    if base.resize is None or base.resize == base.input_size:
        yield replace(base, resize=round(max(base.input_size) / CROP_SHARE))
    else:
        yield replace(base, resize=base.input_size)


def _list_scalings(
    base: InputContract, channels: int, side: int
) -> Iterator[tuple[Normalization | None, str, float]]:
    """List normalizations with their names and the value of white, the most usual for such images first."""
    yield None, "no normalization", 1.0
    first = "mnist" if channels == 1 else "cifar10" if side <= MAX_SMALL_SIDE_PIXELS else "imagenet"
    for key in sorted(NORMALIZATIONS, key=lambda key: key != first):
        if len(NORMALIZATIONS[key][0]) == channels or key == "half":
            yield NORMALIZATIONS[key], f"the normalization of {key}", 1.0
    yield None, "no normalization", WHITE
    if channels == len(_CAFFE_MEANS):
        yield (_CAFFE_MEANS, (1.0,) * channels), "the means of Caffe's networks subtracted", WHITE
    if base.normalization is not None:
        mean, std = base.normalization
        again = tuple(m + s * m for m, s in zip(mean, std, strict=True))
        yield (again, tuple(s * s for s in std)), "its normalization applied twice", base.value_scale
    elif base.value_scale == 1:
        for key in dict.fromkeys((first, "imagenet", "half")):
            if len(NORMALIZATIONS[key][0]) in (1, channels):
                yield _invert_normalization(NORMALIZATIONS[key]), f"a normalization of {key} undone", 1.0
    yield _ONCE_MORE, "pixels divided by 255 once more", 1.0


def _invert_normalization(normalization: Normalization) -> Normalization:
    """Return the normalization that undoes another one, for a file that normalizes twice."""
    mean, std = normalization
    pairs = list(zip(mean, std, strict=True))
    return tuple(round(-m / s, _DIGITS) for m, s in pairs), tuple(round(1 / s, _DIGITS) for _, s in pairs)
