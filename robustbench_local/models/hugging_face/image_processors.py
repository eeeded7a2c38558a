"""The input contract in a configured image processor of transformers, and a check that it does the same."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustbench_local.classifier.foreign_errors import extract_first_line
from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.classifier.literals import Interpolation
from robustbench_local.classifier.normalizations import Normalization, parse_normalization
from robustbench_local.classifier.preprocessing import Preprocessing
from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.models.timm_data_config import read_data_config

_INTERPOLATIONS: dict[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""PIL's codes of the filters that can be reproduced; not box (4) and hamming (5)."""
_WHITE = 255.0
_PROBE_SIZES = ((61, 61), (100, 131), (97, 58))
"""(H, W) of the random images on which a contract is compared with its processor; the first is square."""
_PROBE_LEVELS = (64, 192)
"""Their gray levels: bicubic filters do not overshoot black or white, where PIL clamps each of two passes."""
MAX_DIFFERENCE_LEVELS = 2.5
"""Largest difference to the processor, in gray levels of 255, that rounding to 8 bits explains: torchvision
resizes 8-bit images with weights of 8 bits."""
_SEED = 20
_UNSUPPORTED = {
    "Donut": "scales images down into a frame and pads them",
    "ImageGPT": "replaces pixels by the nearest color of a palette",
    "Perceiver": "crops images before it resizes them",
    "Siglip2": "cuts images into a number of patches that depends on their size",
    "TextNet": "keeps the aspect ratio of images, so that there is no fixed input size",
}
_CONVNEXT_STRETCHED_FROM = 384
"""From this side, in pixels, ConvNext's processor stretches instead of cropping."""
_LEVIT_MARGIN = 256 / 224


@dataclass(frozen=True)
class _Geometry:
    """How a processor resizes, and the center that it then crops; None for a step that it does not have."""

    resize: int | tuple[int, int] | None
    crop: tuple[int, int] | None


def read_processor(processor: Any) -> tuple[InputContract, list[str]]:
    """Read the contract of a processor, run both on random images, and compare.

    Args:
        processor: A configured image processor of transformers.

    Returns:
        The contract, and notes on what it does differently.

    Raises:
        ModelError: If it does what a contract cannot express, or does not do what its configuration says.
    """
    name = type(processor).__name__
    kind = name.removesuffix("Pil").removesuffix("Fast").removesuffix("ImageProcessor")
    if kind in _UNSUPPORTED:
        raise _build_refusal(name, f"it {_UNSUPPORTED[kind]}")
    try:
        contract = (
            read_data_config(processor.data_config, "its image processor")
            if kind == "TimmWrapper"
            else _read_contract(processor, kind, name)
        )
    except ConfigError as error:
        raise _build_refusal(name, error.what) from error
    return contract, _compare_with_processor(contract, processor, name)


def _read_contract(processor: Any, kind: str, name: str) -> InputContract:
    geometry = _read_geometry(processor, kind, name)
    order, scale, normalization = _read_values(processor, kind)
    code = getattr(processor, "resample", None)
    interpolation = _INTERPOLATIONS.get(2 if code is None else int(code))
    if geometry.resize is not None and interpolation is None:
        raise _build_refusal(name, f"it resizes by PIL's filter {int(code or 0)}")
    size = geometry.crop or (geometry.resize if isinstance(geometry.resize, tuple) else None)
    return InputContract(
        input_size=size,
        resize=geometry.resize,
        interpolation=interpolation or "bilinear",
        crop_rounding="nearest" if geometry.crop is None else "down",
        channel_order=order,
        value_scale=scale,
        normalization=normalization,
        origin="image processor",
    )


def _read_geometry(processor: Any, kind: str, name: str) -> _Geometry:
    """Return how it resizes and crops; refuse what has no fixed size."""
    geometry = _Geometry(None, None)
    if getattr(processor, "do_resize", False):
        geometry = _read_resize(processor, kind)
    if geometry.crop is None and getattr(processor, "do_center_crop", False):
        crop = _read_size(getattr(processor, "crop_size", None))
        geometry = replace(geometry, crop=(crop, crop) if isinstance(crop, int) else crop)
    if geometry.crop is not None and geometry.resize is None:
        raise _build_refusal(name, "it crops images without resizing them")
    if isinstance(geometry.resize, int) and geometry.crop is None:
        raise _build_refusal(
            name, "it keeps the aspect ratio of images, so that there is no fixed input size"
        )
    return geometry


def _read_resize(processor: Any, kind: str) -> _Geometry:
    """Return what images are resized to, and the crop where that is a part of resizing."""
    size = _read_size(getattr(processor, "size", None))
    shorter = size if isinstance(size, int) else None
    if kind == "ConvNext" and shorter is not None:
        if shorter >= _CONVNEXT_STRETCHED_FROM:
            return _Geometry((shorter, shorter), None)
        return _Geometry(int(shorter / processor.crop_pct), (shorter, shorter))
    if kind == "PoolFormer" and processor.crop_pct is not None:
        if isinstance(size, tuple) and size[0] == size[1]:
            shorter = size[0]
        if shorter is not None:
            return _Geometry(int(shorter / processor.crop_pct), None)
    if kind == "Levit" and shorter is not None:
        return _Geometry(int(_LEVIT_MARGIN * shorter), None)
    if kind == "PPLCNet" and processor.resize_short is not None:
        return _Geometry(int(processor.resize_short), None)
    return _Geometry(size, None)


def _read_size(size: Any) -> int | tuple[int, int] | None:
    """Return the shorter side, or (H, W), of a size as transformers normalizes it."""
    sizes = {key: value for key, value in dict(size or {}).items() if value}
    if set(sizes) == {"height", "width"}:
        return int(sizes["height"]), int(sizes["width"])
    return int(sizes["shortest_edge"]) if set(sizes) == {"shortest_edge"} else None


def _read_values(processor: Any, kind: str) -> tuple[Any, float, Normalization | None]:
    """Return channel order, value of white and normalization of everything done to the values."""
    factor = float(processor.rescale_factor) if getattr(processor, "do_rescale", False) else 1.0
    scale, mean, std = np.float64(factor * _WHITE), np.zeros(1), np.ones(1)
    if getattr(processor, "do_normalize", False) and kind != "MobileViT":  # which has the key and ignores it
        mean, std = _read_channels(processor.image_mean), _read_channels(processor.image_std)
    if kind == "EfficientNet":
        if getattr(processor, "rescale_offset", False) and getattr(processor, "do_rescale", False):
            mean = mean + 1.0
        if getattr(processor, "include_top", False):
            std = std * _read_channels(processor.image_std)
    is_flipped = kind == "PPLCNet" or bool(getattr(processor, "do_flip_channel_order", False))
    if is_flipped:  # after the normalization
        mean, std = mean[::-1], std[::-1]
    order = "bgr" if is_flipped else "rgb"
    if not mean.any() and (std == 1).all():
        return order, float(scale.round(6)), None
    if scale.round(6) != _WHITE:  # in units of [0, 1], as published means are
        mean, std, scale = mean / scale, std / scale, np.float64(1.0)
    return order, float(scale.round(6)), parse_normalization((_to_numbers(mean), _to_numbers(std)))


def _read_channels(values: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.atleast_1d(np.asarray(values, dtype=np.float64))


def _to_numbers(values: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, ...]:
    """Return channel values without the noise of their scaling."""
    return tuple(float(f"{value:.9g}") for value in values)


def _compare_with_processor(contract: InputContract, processor: Any, name: str) -> list[str]:
    """Run contract and processor on random 8-bit images; return notes, or refuse."""
    preprocess = Preprocessing(contract, torch.device("cpu"), torch.float32)
    notes = []
    for height, width in _PROBE_SIZES:
        generator = torch.Generator().manual_seed(_SEED)
        image = torch.randint(*_PROBE_LEVELS, (3, height, width), dtype=torch.uint8, generator=generator)
        wanted = _run_processor(processor, image, name)
        found = preprocess(image[None].float() / _WHITE)
        levels = _measure_difference(found, wanted, contract)
        if levels <= MAX_DIFFERENCE_LEVELS:
            continue
        if height == width or math.isnan(levels):
            raise _build_refusal(name, "what it does is not what its configuration says")
        notes.append("images that are not square are prepared a little differently by its own processor")
    return notes[:1]


def _run_processor(processor: Any, image: Tensor, name: str) -> Tensor:
    """Return the processor's (1, 3, H, W) for an 8-bit image (3, H, W)."""
    pixels = image.permute(1, 2, 0).numpy()
    try:
        output = processor(images=_to_pil(pixels), return_tensors="pt")
        values = output["pixel_values"]
    except Exception as error:
        raise _build_refusal(name, f"it fails on a photograph: {extract_first_line(error)}") from error
    if not isinstance(values, Tensor) or values.ndim != 4:
        raise _build_refusal(name, "it does not return images")
    return values.float()


def _to_pil(pixels: Any) -> Any:
    from PIL import Image  # noqa: PLC0415 - for this check only

    return Image.fromarray(pixels)


def _measure_difference(found: Tensor, wanted: Tensor, contract: InputContract) -> float:
    """Return the largest difference, in gray levels of 255; infinite if the sizes differ."""
    if found.shape != wanted.shape:
        return float("inf")
    std = 1.0 if contract.normalization is None else max(contract.normalization[1])
    return float((found - wanted).abs().max()) * std / contract.value_scale * _WHITE


def _build_refusal(name: str, reason: str) -> ModelError:
    return ModelError(
        f"its image processor {name} is not reproduced here: {reason}",
        remedy="declare normalize and input_size to prepare the images otherwise",
    )
