"""The input contract of a model: how its images are resized, cropped, ordered, scaled and normalized."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from robustbench_local.classifier.literals import ChannelOrder, CropRounding, Interpolation
from robustbench_local.classifier.normalizations import Normalization, parse_normalization
from robustbench_local.errors import ConfigError, did_you_mean

MAX_SIDE_PIXELS = 16384
"""Longest side that an image is resized to; a longer one is a mistake."""
PREPROCESSING_KEYS = (
    "resize",
    "interpolation",
    "antialias",
    "crop_rounding",
    "channel_order",
    "value_scale",
)
"""The fields that ``preprocessing`` sets; ``normalize`` and ``input_size`` have keys of their own."""


@dataclass(frozen=True, kw_only=True)
class InputContract:
    """How a model takes its images, from RGB or gray pixels in [0, 1], in the order of the fields below.

    Raises:
        ConfigError: If a value is impossible.
    """

    input_size: tuple[int, int] | None = None
    """(H, W) that the network takes, in pixels; None for any. Images of this size are neither resized nor
    cropped."""
    resize: int | tuple[int, int] | None = None
    """What other images are resized to before ``input_size`` is cut from the center: the length of the
    shorter side, or (H, W) regardless of the aspect ratio. None: the source does not say; the model then
    stretches images to ``input_size``, and photographs are resized to cover it."""
    interpolation: Interpolation = "bilinear"
    """How they are resized, as PIL does it."""
    antialias: bool = True
    """Whether shrinking averages over all pixels that fall on one, as PIL does; for bilinear and bicubic."""
    crop_rounding: CropRounding = "nearest"
    """Where a crop begins whose center is between two pixels: at the even one, as torchvision and timm do, or
    ``"down"``, at the first, as transformers does."""
    channel_order: ChannelOrder = "rgb"
    """``"bgr"`` reverses the channels, for networks from Caffe and OpenCV."""
    value_scale: float = 1.0
    """Value of white: 255 for networks that take 0..255. Pixels are multiplied by it."""
    normalization: Normalization | None = None
    """Means and standard deviations, subtracted and divided last: in the order of the network's channels, and
    in the units of ``value_scale``; None for none."""
    origin: str = field(default="", compare=False, repr=False)
    """Where it comes from, in a few words such as ``"card"``; empty if unknown. No part of the contract."""
    overridden: InputContract | None = field(default=None, compare=False, repr=False)
    """The source's own contract, where the user declares another; no part of the contract."""

    def __post_init__(self) -> None:
        _check_literal("interpolation", self.interpolation, get_args(Interpolation))
        _check_literal("crop_rounding", self.crop_rounding, get_args(CropRounding))
        _check_literal("channel_order", self.channel_order, get_args(ChannelOrder))
        _check_side_lengths("input_size", self.input_size)
        _check_side_lengths("resize", self.resize)
        scale = self.value_scale
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < math.inf:
            raise ConfigError(
                f"value_scale must be a number above 0, got {scale!r}",
                remedy="write the value of white: 1 or 255",
            )
        object.__setattr__(self, "value_scale", float(scale))  # 255 and 255.0 are one identity
        if not isinstance(self.antialias, bool):
            raise ConfigError(f"antialias must be true or false, got {self.antialias!r}")
        if self.resize is not None and self.input_size is None:
            raise ConfigError("resize needs input_size", remedy="set the size to crop, such as 224")

    @property
    def channels(self) -> int | None:
        """Number of image channels, where the contract defines it; one mean fits any number."""
        count = 0 if self.normalization is None else len(self.normalization[0])
        if self.channel_order == "bgr":
            return 3
        return count if count > 1 else None

    @property
    def geometry(self) -> InputContract:
        """The part that decides how photographs are resized and cropped; equal ones give equal images."""
        return InputContract(**{name: getattr(self, name) for name in _GEOMETRY_FIELDS})

    def describe_fields(self) -> dict[str, Any]:
        """Return the contract as JSON values, and in words as ``text``, for reports."""
        mean_and_std = self.normalization and [list(part) for part in self.normalization]
        return {
            "text": "; ".join(filter(None, (self.format_geometry(), self.format_values()))),
            "input_size": self.input_size and list(self.input_size),
            "resize": list(self.resize) if isinstance(self.resize, tuple) else self.resize,
            "interpolation": self.interpolation,
            "antialias": self.antialias,
            "crop_rounding": self.crop_rounding,
            "channel_order": self.channel_order,
            "value_scale": self.value_scale,
            "normalize": mean_and_std and {"mean": mean_and_std[0], "std": mean_and_std[1]},
        }

    @property
    def origin_words(self) -> str:
        """Where it comes from, as a reader is told."""
        return "none found" if self == InputContract() else self.origin or "model source"

    def format_geometry(self) -> str:
        """Return resizing and crop in words: ``"shorter side 256, bicubic, center 224x224"``; "" if none."""
        if self.input_size is None:
            return ""
        size = format_size(self.input_size)
        how = self.interpolation if self.antialias else f"{self.interpolation} without antialiasing"
        if self.resize is None or self.resize == self.input_size:
            return f"{size}, {how}"
        before = (
            f"shorter side {self.resize}"
            if isinstance(self.resize, int)
            else f"stretched to {format_size(self.resize)}"
        )
        return f"{before}, {how}, center {size}"

    def format_values(self) -> str:
        """Return what happens to the pixels' values in words, with 4 digits; "" if nothing does."""
        parts = ["BGR"] if self.channel_order == "bgr" else []
        if self.value_scale != 1:
            parts.append(f"0..{self.value_scale:g}")
        if self.normalization is not None:
            mean, std = (", ".join(f"{value:.4g}" for value in part) for part in self.normalization)
            parts.append(f"mean {mean}, std {std}")
        return ", ".join(parts)

    def list_extras(self) -> tuple[Any, ...]:
        """Return name and value of every field besides size and normalization that is not the default.

        They are a part of a model's identity only where they are set, so that other identities stay as
        they were before there were such fields.
        """
        values = ((name, getattr(self, name)) for name in PREPROCESSING_KEYS)
        return tuple((name, value) for name, value in values if value != _DEFAULTS[name])

    def describe_extras(self) -> dict[str, Any]:
        """Return the same as a mapping of JSON values, as a user's ``preprocessing`` has them."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in self.list_extras()
        }


_GEOMETRY_FIELDS = ("input_size", "resize", "interpolation", "antialias", "crop_rounding")
_DEFAULTS: dict[str, Any] = {entry.name: entry.default for entry in fields(InputContract)}


def make_contract(preprocessing: InputContract | Mapping[str, Any] | None, **overrides: Any) -> InputContract:
    """Return a whole contract, or the default one with a mapping's values, with overrides.

    Args:
        preprocessing: A contract, or any of `PREPROCESSING_KEYS`.
        **overrides: See `override_contract`.

    Raises:
        ConfigError: As `override_contract` does.
    """
    if isinstance(preprocessing, InputContract):
        return override_contract(preprocessing, **overrides)
    return override_contract(InputContract(), preprocessing=preprocessing, **overrides)


def override_contract(
    contract: InputContract,
    *,
    normalize: tuple[Sequence[float], Sequence[float]] | str | None = None,
    input_size: tuple[int, int] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    channels: int | None = None,
) -> InputContract:
    """Return a contract with the values that a user sets.

    Args:
        contract: The contract of the model's source.
        normalize: A normalization or its name; ``"none"`` for none; None keeps the contract's.
        input_size: (H, W); another than the contract's drops its ``resize``, which belongs to its own size.
        preprocessing: Any of `PREPROCESSING_KEYS`; ``resize: "stretch"`` stretches to the input size.
        channels: Number of channels that the model takes, where known.

    Raises:
        ConfigError: If a key is unknown, or a value is impossible or contradicts another.
    """
    changes = _parse_preprocessing(preprocessing)
    if changes or normalize is not None or input_size is not None:
        own = contract.overridden or (None if contract == InputContract() else contract)
        rest = "" if own is None else f", the rest: {own.origin_words}"
        contract = replace(contract, origin=f"declared{rest}", overridden=own)
    if input_size is not None:
        declared = (int(input_size[0]), int(input_size[1]))
        if declared != contract.input_size:
            changes = {"resize": None, **changes}
        changes["input_size"] = declared
    size: tuple[int, int] | None = changes.get("input_size", contract.input_size)
    if changes.get("resize") == "stretch":
        changes["resize"] = size
    result = replace(contract, **changes)
    if preprocessing and isinstance(result.resize, int) and size and result.resize < max(size):
        raise ConfigError(
            f"resize {result.resize} is smaller than input_size {format_size(size)}",
            remedy="write the length of the shorter side before the crop",
        )
    if normalize is not None:
        if isinstance(normalize, str) and normalize != "none" and result.value_scale != 1:
            raise ConfigError(
                f"normalize: {normalize} is for pixels in [0, 1], and value_scale is {result.value_scale:g}",
                remedy=f"write mean and std of pixels in 0..{result.value_scale:g}, or value_scale: 1",
            )
        result = replace(result, normalization=parse_normalization(normalize, channels))
    elif channels is not None:
        parse_normalization(result.normalization, channels)
    if result.channel_order == "bgr" and channels not in (None, 3):
        raise ConfigError(
            f"channel_order bgr needs 3 channels, and the model takes {channels}",
            remedy="leave channel_order out",
        )
    return result


def format_size(size: tuple[int, int]) -> str:
    """Return (H, W) as ``"HxW"``."""
    return f"{size[0]}x{size[1]}"


def _parse_preprocessing(preprocessing: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the values that are set; lists become tuples."""
    if preprocessing is None:
        return {}
    if not isinstance(preprocessing, Mapping):
        raise ConfigError(
            f"preprocessing must be a mapping, got {preprocessing!r}",
            remedy=f"write any of {', '.join(PREPROCESSING_KEYS)}",
        )
    for key in preprocessing:
        if key not in PREPROCESSING_KEYS:
            remedy = (
                f"write {key} beside preprocessing"
                if key in ("normalize", "input_size")
                else did_you_mean(str(key), PREPROCESSING_KEYS)
            )
            raise ConfigError(f"preprocessing has no {key!r}", remedy=remedy)
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in preprocessing.items()
        if value is not None
    }


def _check_literal(key: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"unknown {key} {value!r}", remedy=did_you_mean(str(value), known))


def _check_side_lengths(key: Literal["input_size", "resize"], value: object) -> None:
    """Refuse what is not a length or (H, W) in pixels."""
    if value is None:
        return
    sides = value if isinstance(value, tuple) else (value,)
    is_whole = all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
    has_length = len(sides) == 2 or (key == "resize" and len(sides) == 1 and not isinstance(value, tuple))
    if not (is_whole and has_length and all(0 < side <= MAX_SIDE_PIXELS for side in sides)):
        one = "the length of the shorter side, [height, width] or stretch"
        remedy = f"write {one if key == 'resize' else '[height, width]'}, in pixels"
        raise ConfigError(f"{key} must be 1 to {MAX_SIDE_PIXELS}, got {value!r}", remedy=remedy)
