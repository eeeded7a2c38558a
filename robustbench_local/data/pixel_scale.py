"""The value of white in an array of images, so that dark images are dark on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robustbench_local.data.dataset import check_pixel_blocks
from robustbench_local.data.pixel_array import PixelArray
from robustbench_local.errors import DataError

MIN_WHITE_SHARE = 1 / 8
"""Share of white: if an array's largest value is below it, a note says that the images are dark, as 4-bit
digits or 12-bit values in 16 bits are."""
_WHITE_8_BIT, _WHITE_16_BIT = 255, 65535
_MAX_BLACK_VALUE = {_WHITE_8_BIT: 1, _WHITE_16_BIT: 255, 1: 1 / 255}
"""White of a type -> largest value that points to another scale: 0 and 1 as bytes, bytes in 16 bits, or
numbers in [0, 1] divided by 255 once more. All such images would be black."""
_HALF_LEVEL_SHARE = 0.5 / 255
"""Share of white below which a pixel is black in 8 bits."""


@dataclass(frozen=True)
class PixelScale:
    """The divisor of an array's values, with notes for the reader of a report.

    Attributes:
        white: The value of white; None for uint8 images, which are divided by 255 when they are stacked.
        notes: Remarks for the reader of a report.
    """

    white: float | None
    notes: tuple[str, ...] = ()


def find_scale(pixels: PixelArray, declared: float | None, where: str) -> PixelScale:
    """Determine the value of white in images (N, H, W, C), from their type and values or as declared.

    Args:
        pixels: uint8, uint16 or bool; floating point in [0, 1]; with ``declared`` any real type.
        declared: The value of white, above 0; None: 255, 65535 or 1, by the type.
        where: Name of the array in messages.

    Raises:
        DataError: If the type does not imply white, values are out of range, or they are so small that
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


def _build_declared_scale(pixels: PixelArray, declared: float, where: str) -> PixelScale:
    _check_range(pixels, declared, where)
    largest = pixels.find_largest()
    if 0 < largest < declared * _HALF_LEVEL_SHARE:
        what = f"divided by scale: {declared:g} every image is black: no value exceeds {largest:g}"
        raise DataError(what, where=where, remedy="set scale: to the value of white")
    dark = _note_darkness(largest, declared)
    return PixelScale(declared, (f"values divided by {declared:g}, as scale: says", *dark))


def _check_range(pixels: PixelArray, white: float, where: str) -> None:
    def read_blocks() -> Iterator[Tensor]:
        for block in pixels.iterate_blocks():
            scaled = block.astype(np.float32)
            yield torch.from_numpy(scaled if white == 1 else scaled / np.float32(white)).permute(0, 3, 1, 2)

    location = where if white == 1 else f"{where}, divided by scale: {white:g}"
    check_pixel_blocks(read_blocks, location)


def _check_used_range(pixels: PixelArray, white: int, where: str) -> tuple[str, ...]:
    """Refuse images that a wrong scale would turn black; return a note if they are merely dark."""
    largest = pixels.find_largest()
    if 0 < largest <= _MAX_BLACK_VALUE[white] * (1 + 1e-6):
        finding = "only 0 and 1" if white == _WHITE_8_BIT else f"no value above {largest:.4g}"
        what = f"the {pixels.dtype} images hold {finding}: with white at {white} they would be black"
        suspected = f"scale: {_MAX_BLACK_VALUE[white]:.10g} if that is white"
        raise DataError(what, where=where, remedy=f"set {suspected}, or scale: {white} if they are that dark")
    return _note_darkness(largest, white)


def _note_darkness(largest: float, white: float) -> tuple[str, ...]:
    if largest >= MIN_WHITE_SHARE * white:
        return ()
    finding = "all pixels are 0" if largest == 0 else f"no pixel is above {largest:.4g}"
    return (f"the images are dark: {finding}, and white is {white:g} (set scale: to change it)",)


def _build_type_error(pixels: PixelArray, where: str) -> DataError:
    what = f"images must be uint8, uint16, bool or floats in [0, 1], got {pixels.dtype}"
    if pixels.dtype.kind not in "iu":
        return DataError(what, where=where, remedy="save them as uint8, 0 to 255")
    high = int(pixels.find_largest())
    usual = (1, _WHITE_8_BIT, 4095, _WHITE_16_BIT)
    white = next((level for level in usual if high <= level), high)
    remedy = f"save them as uint8, 0 to 255, or set scale: to the value of white, such as scale: {white}"
    return DataError(what, where=where, remedy=remedy)
