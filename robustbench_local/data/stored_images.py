"""Images on the disk: decoded once, and converted to numbers when a batch needs them."""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_local.data.decode import Pixels
from robustbench_local.errors import DataError

MAX_LOADED_IMAGES = 512
"""Largest selection of stored images that is loaded at once; larger ones stay on the disk."""
BATCH_IMAGES = 64
"""Images that are loaded together where all of them are read one after the other."""


class PixelReader(Protocol):
    """Decoded images by number."""

    def __len__(self) -> int:
        """Return the number of images."""

    def read_pixels(self, number: int) -> Pixels:
        """Return an image, (H, W, C): uint8, or float32 in [0, 1].

        Raises:
            DataError: If it is not what was written.
        """

    def announce_rows(self, numbers: Sequence[int]) -> None:
        """Say that these images are read soon."""


class PixelEntry(NamedTuple):
    """The place of one image in a file of decoded images."""

    offset: int
    shape: tuple[int, int, int]
    """(H, W, C)."""
    dtype: np.dtype[Any]
    digest: bytes
    """Of ``hash_pixels``."""


class FilePixels:
    """Decoded images in a file without a name, which child processes share and no kill leaves behind.

    Args:
        file: The file; it is only read, at given places, so that several processes can do so. It is closed
            with the last reference to this object.
        entries: The place of each image.
    """

    def __init__(self, file: IO[bytes], entries: Sequence[PixelEntry]) -> None:
        self._file, self._entries = file, entries
        weakref.finalize(self, file.close)

    def __len__(self) -> int:
        return len(self._entries)

    def read_pixels(self, number: int) -> Pixels:
        """Return an image; a file that has changed since it was written is an error."""
        entry = self._entries[number]
        content = os.pread(self._file.fileno(), _count_bytes(entry), entry.offset)
        if len(content) == _count_bytes(entry):
            pixels: Pixels = np.frombuffer(content, dtype=entry.dtype).reshape(entry.shape)
            if hash_pixels(pixels) == entry.digest:
                return pixels
        what = f"the decoded pixels of image {number} have changed on the disk since they were read"
        raise DataError(what, remedy="check the disk, and run the same command again")

    def announce_rows(self, numbers: Sequence[int]) -> None:
        """Let the system read these images ahead, beside the attack on the current ones."""
        if hasattr(os, "posix_fadvise"):
            for number in numbers:
                entry = self._entries[number]
                size = _count_bytes(entry)
                os.posix_fadvise(self._file.fileno(), entry.offset, size, os.POSIX_FADV_WILLNEED)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy the pixels for another machine."""
        return ArrayPixels, ([self.read_pixels(number) for number in range(len(self))],)


class ArrayPixels:
    """Decoded images in memory, as another machine receives them.

    Args:
        arrays: The images, (H, W, C) each.
    """

    def __init__(self, arrays: Sequence[Pixels]) -> None:
        self._arrays = arrays

    def __len__(self) -> int:
        return len(self._arrays)

    def read_pixels(self, number: int) -> Pixels:
        """Return an image."""
        return self._arrays[number]

    def announce_rows(self, numbers: Sequence[int]) -> None:
        """Do nothing: they are in memory."""


class StoredImages:
    """Images that behave like a tensor, (N, C, H, W), float32 in [0, 1], when they are indexed.

    Any index gives a tensor in memory; iterating gives one image after the other. What needs all images at
    once (arithmetic, ``to``, ``clone``) is missing on purpose.

    Args:
        pixels: The decoded images, all of one height and width.
        rows: Numbers of those that are meant, in their order.
        channels: Channels of the tensor; gray images are repeated.
    """

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, pixels: PixelReader, rows: NDArray[np.int64], channels: int) -> None:
        self._pixels, self._rows, self._channels = pixels, rows, channels
        height, width = pixels.read_pixels(int(rows[0])).shape[:2] if len(rows) else (0, 0)
        self.shape = torch.Size((len(rows), channels, height, width))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Tensor:
        """Return the images at an index as a tensor in memory; further indices apply to that tensor."""
        first, rest = (index[0], index[1:]) if isinstance(index, tuple) else (index, ())
        if isinstance(first, int):
            images = self._load_rows(self._rows[[first]])[0]
            return images[rest] if rest else images
        images = self._load_rows(self._rows[_convert_index(first)])
        return images[(slice(None), *rest)] if rest else images

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.iterate_batches():
            yield from batch

    def select_rows(self, index: Any) -> StoredImages:
        """Return the images at an index without loading them."""
        return StoredImages(self._pixels, self._rows[_convert_index(index)], self._channels)

    def iterate_batches(self) -> Iterator[Tensor]:
        """Iterate over all images in tensors of up to ``BATCH_IMAGES``."""
        for start in range(0, len(self), BATCH_IMAGES):
            yield self[start : start + BATCH_IMAGES]

    def announce_rows(self, index: Any) -> None:
        """Say that the images at an index are loaded soon."""
        self._pixels.announce_rows(self._rows[_convert_index(index)].tolist())

    def _load_rows(self, rows: NDArray[np.int64]) -> Tensor:
        numbers = rows.tolist()
        arrays = [self._pixels.read_pixels(number) for number in numbers]
        return stack_pixels(arrays, self.shape[1:]).clamp_(0, 1)  # for values that are outside by rounding


def stack_pixels(arrays: Sequence[Pixels], shape: Sequence[int]) -> Tensor:
    """Return images as (N, C, H, W), float32 in [0, 1].

    Args:
        arrays: The images, (H, W, C) or gray; uint8, or float32 in [0, 1].
        shape: (C, H, W).
    """
    images = np.empty((len(arrays), *shape), dtype=np.float32)
    for row, array in enumerate(arrays):
        images[row] = array.transpose(2, 0, 1)
        if array.dtype == np.uint8:
            images[row] /= 255
    return torch.from_numpy(images)


def hash_pixels(pixels: Pixels) -> bytes:
    """Return a digest of an image's size and values."""
    hasher = hashlib.sha256(f"{pixels.shape}".encode())
    hasher.update(np.ascontiguousarray(pixels).data)
    return hasher.digest()


def _count_bytes(entry: PixelEntry) -> int:
    return int(np.prod(entry.shape)) * entry.dtype.itemsize


def _convert_index(index: Any) -> Any:
    return index.numpy() if isinstance(index, Tensor) else index
