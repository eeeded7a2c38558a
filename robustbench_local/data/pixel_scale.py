"""Which number of an array stands for white, so that dark images are dark because somebody said so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robustbench_local.data.dataset import check_pixel_values
from robustbench_local.errors import DataError

MIN_WHITE_SHARE = 1 / 8
"""The largest value of a whole array, as a share of its type's white, below which a reader is told that the
images are dark: 4-bit digits, or 12-bit values in 16 bits."""
_WHITE_8_BIT, _WHITE_16_BIT = 255, 65535
_MAX_BLACK_VALUE = {_WHITE_8_BIT: 1, _WHITE_16_BIT: 255, 1: 1 / 255}
"""White of a type -> the largest value that is another type's white: 0 and 1 as bytes, bytes in 16 bits, or
numbers in [0, 1] divided by 255 once more. All such images would be black."""
_HALF_LEVEL_SHARE = 0.5 / 255
"""Share of white below which a pixel is black in 8 bits."""


@dataclass(frozen=True)
class PixelScale:
    """What an array's values are divided by, and what a reader should know about it.

    Attributes:
        white: The value of white; None for uint8 images, which are divided by 255 when they are stacked.
        notes: In words.
    """

    white: float | None
    notes: tuple[str, ...] = ()


def find_scale(pixels: NDArray[Any], declared: float | None, where: str) -> PixelScale:
    """The value of white in images (N, H, W, C), by their type and values, or as declared.

    Args:
        pixels: uint8, uint16 or bool; floating point in [0, 1]; with ``declared`` any real type.
        declared: The value of white, above 0; None: 255, 65535 or 1, by the type.
        where: What messages call the array.

    Raises:
        DataError: If the type does not say what white is, values lie outside, or they are so small that
            all images would be black.
    """
    kind, size = pixels.dtype.kind, pixels.dtype.itemsize
    if kind not in "buif":
        raise _build_type_error(pixels, where)
    if declared is not None:
        return _build_declared_scale(pixels, declared, where)
    if kind == "b":
        return PixelScale(1, ("black and white images (bool), True read as white",))
    if kind == "u" and size <= 2:
        white = _WHITE_8_BIT if size == 1 else _WHITE_16_BIT
        dark = _check_used_range(pixels, white, where)
        if size == 1:
            return PixelScale(None, dark)
        return PixelScale(white, ("16-bit images, divided by 65535", *dark))
    if kind == "f":
        _check_range(pixels, 1, where)
        return PixelScale(1, _check_used_range(pixels, 1, where))
    raise _build_type_error(pixels, where)


def _build_declared_scale(pixels: NDArray[Any], declared: float, where: str) -> PixelScale:
    _check_range(pixels, declared, where)
    largest = float(pixels.max())
    if 0 < largest < declared * _HALF_LEVEL_SHARE:
        what = f"divided by scale: {declared:g} every image is black: no value exceeds {largest:g}"
        raise DataError(what, where=where, remedy="set scale: to the value of white")
    dark = _note_darkness(largest, declared)
    return PixelScale(declared, (f"values divided by {declared:g}, as scale: says", *dark))


def _check_range(pixels: NDArray[Any], white: float, where: str) -> None:
    scaled = pixels.astype(np.float32) if white == 1 else pixels.astype(np.float32) / np.float32(white)
    place = where if white == 1 else f"{where}, divided by scale: {white:g}"
    check_pixel_values(torch.from_numpy(scaled).permute(0, 3, 1, 2), place)


def _check_used_range(pixels: NDArray[Any], white: int, where: str) -> tuple[str, ...]:
    """Refuse images that would be black by the wrong scale; a note where they are merely dark."""
    largest = float(pixels.max())
    if 0 < largest <= _MAX_BLACK_VALUE[white] * (1 + 1e-6):
        seen = "only 0 and 1" if white == _WHITE_8_BIT else f"no value above {largest:.4g}"
        what = f"the {pixels.dtype} images hold {seen}: with white at {white} they would be black"
        remedy = f"set scale: {_MAX_BLACK_VALUE[white]:.10g} if that is white, or scale: {white} if they are that dark"
        raise DataError(what, where=where, remedy=remedy)
    return _note_darkness(largest, white)


def _note_darkness(largest: float, white: float) -> tuple[str, ...]:
    if largest >= MIN_WHITE_SHARE * white:
        return ()
    dark = "all pixels are 0" if largest == 0 else f"no pixel is above {largest:.4g}"
    return (f"the images are dark: {dark}, and white is {white:g} (scale: says another white)",)


def _build_type_error(pixels: NDArray[Any], where: str) -> DataError:
    what = f"images must be uint8, uint16, bool or floats in [0, 1], got {pixels.dtype}"
    if pixels.dtype.kind not in "iu":
        return DataError(what, where=where, remedy="save them as uint8, 0 to 255")
    high = int(pixels.max())
    usual = (1, _WHITE_8_BIT, 4095, _WHITE_16_BIT)
    white = next((one for one in usual if high <= one), high)
    remedy = f"save them as uint8, 0 to 255, or set scale: to the value of white, such as scale: {white}"
    return DataError(what, where=where, remedy=remedy)
