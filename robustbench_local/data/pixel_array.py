"""Images of an array, in memory or in an archive: one layout, and a walk over all of them in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_local.data.archive_array import ArchiveArray
from robustbench_local.data.decode import Pixels
from robustbench_local.errors import DataError


class PixelArray:
    """Images (N, H, W, C) of any real type.

    Args:
        array: The array: (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1, 3 or 4.
        where: Its name in messages.

    Raises:
        DataError: If it has another shape.
    """

    def __init__(self, array: NDArray[Any] | ArchiveArray, where: str) -> None:
        self._array, self._where, self.dtype = array, where, array.dtype
        layout = np.broadcast_to(np.empty((), array.dtype), array.shape)
        count, height, width, channels = convert_layout(layout, where).shape
        self.shape: tuple[int, int, int, int] = (count, height, width, channels)

    def __len__(self) -> int:
        return self.shape[0]

    def read_image(self, position: int) -> Pixels:
        """Return an image, (H, W, C)."""
        row = (
            self._array.read_row(position) if isinstance(self._array, ArchiveArray) else self._array[position]
        )
        image: Pixels = self._convert_block(row[None])[0]
        return image

    def iterate_blocks(self) -> Iterator[NDArray[Any]]:
        """Iterate over all images, (M, H, W, C) at a time; those in memory are one block."""
        blocks = self._array.iterate_blocks() if isinstance(self._array, ArchiveArray) else (self._array,)
        yield from map(self._convert_block, blocks)

    def find_largest(self) -> float:
        """Return the largest value."""
        return max(float(block.max()) for block in self.iterate_blocks())

    def _convert_block(self, block: NDArray[Any]) -> NDArray[Any]:
        return convert_layout(block, self._where)


def load_array(array: NDArray[Any] | ArchiveArray) -> NDArray[Any]:
    """Return an array in memory."""
    return array.load() if isinstance(array, ArchiveArray) else array


def convert_layout(array: NDArray[Any], where: str) -> Pixels:
    """Return images as (N, H, W, C), a view of the array.

    Raises:
        DataError: If they have another shape than (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1, 3 or 4.
    """
    shape = array.shape
    if array.ndim == 3:
        array = array[..., None]
    elif array.ndim == 4 and shape[3] not in (1, 3, 4) and shape[1] in (1, 3, 4):
        array = array.transpose(0, 2, 3, 1)
    if array.ndim != 4 or array.shape[3] not in (1, 3, 4):
        what = f"images must be (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1, 3 or 4, got {shape}"
        raise DataError(what, where=where)
    if 0 in shape:
        remedy = "check how the file was written"
        raise DataError(f"there are no images: the array has shape {shape}", where=where, remedy=remedy)
    return array
