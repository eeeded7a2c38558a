"""Decoded images while they are collected: in memory, and on the disk once they are too many for it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from torch import Tensor

from robustbench_local.counted_nouns import choose_form, format_count
from robustbench_local.data.dataset import format_clamped
from robustbench_local.data.decode import Pixels
from robustbench_local.data.stored_images import (
    FilePixels,
    PixelEntry,
    StoredImages,
    hash_pixels,
    stack_pixels,
)
from robustbench_local.errors import StorageError

MAX_BYTES_IN_MEMORY = 1 << 30
"""Largest size of all images as float32 with which they stay in memory."""
_FLOAT_BYTES = 4
_ROOM_REMEDY = (
    "free some space, or set a limit, a smaller size, or RBL_CACHE to a folder with more room, and run again"
)


class PixelSpool:
    """Decoded images in the order in which they are added.

    Args:
        where: Name of the source in messages.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.shapes: list[tuple[int, int, int]] = []
        """(H, W, C) of each image."""
        self.digests: list[bytes] = []
        """Of ``hash_pixels``, of each image."""
        self.has_8_bit_white = self.has_light = False
        """Whether some image is no 8-bit one or has a value above 1; whether some value is above 0."""
        self._arrays: list[Pixels] = []
        self._entries: list[PixelEntry] = []
        self._file: IO[bytes] | None = None
        self._stored: FilePixels | None = None
        self._value_count = 0
        self._clamped_count = 0

    def __len__(self) -> int:
        return len(self.shapes)

    def __iter__(self) -> Iterator[Pixels]:
        """Iterate over the images, one in memory at a time."""
        return map(self._read_pixels, range(len(self)))

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks about images on the disk, as ``Dataset`` makes them about images in memory."""
        is_clamped = self._file is not None and self._clamped_count > 0
        return (format_clamped(self._clamped_count),) if is_clamped else ()

    def append(self, pixels: Pixels) -> None:
        """Add an image, (H, W, C): uint8, or float32 in [0, 1].

        Raises:
            StorageError: If the disk is full; nothing of the run is lost.
        """
        self._value_count += pixels.size
        if self._file is None and self._value_count * _FLOAT_BYTES > MAX_BYTES_IN_MEMORY:
            self._move_to_disk()
        height, width, channels = pixels.shape
        self.shapes.append((height, width, channels))
        self.digests.append(hash_pixels(pixels))
        largest = float(pixels.max())
        self._clamped_count += pixels.dtype != np.uint8 and (largest > 1 or bool(pixels.min() < 0))
        self.has_8_bit_white |= pixels.dtype != np.uint8 or largest > 1
        self.has_light |= largest > 0
        if self._file is None:
            self._arrays.append(pixels)
        else:
            self._write(self._file, pixels, self.digests[-1])

    def change_all(self, change: Callable[[Pixels], Pixels]) -> PixelSpool:
        """Return a spool with every image changed."""
        changed = PixelSpool(self.where)
        for pixels in self:
            changed.append(change(pixels))
        return changed

    def check_room(self, count: int) -> None:
        """Refuse images that will not fit on the disk before time is spent on them.

        Args:
            count: Number of images in all, as large as the first.

        Raises:
            StorageError: If they will not.
        """
        size = int(np.prod(self.shapes[0]))
        if size * count * _FLOAT_BYTES <= MAX_BYTES_IN_MEMORY:
            return
        folder = find_spool_folder()
        needed, free = size * count * self._read_pixels(0).itemsize, shutil.disk_usage(folder).free
        if needed > free:
            needs = f"{choose_form(count, 'needs', 'need')} {_format_bytes(needed)} on the disk"
            what = f"{format_count(count, 'image')} {needs}, and {folder} has {_format_bytes(free)}"
            raise StorageError(what, where=self.where, remedy=_ROOM_REMEDY)

    def build_images(self, channels: int) -> Tensor | StoredImages:
        """Return the images, all of one height and width, with this number of channels."""
        if self._file is not None and self._stored is not None:
            return StoredImages(self._stored, np.arange(len(self), dtype=np.int64), channels)
        height, width = self.shapes[0][:2]
        return stack_pixels(self._arrays, (channels, height, width))

    def _read_pixels(self, row: int) -> Pixels:
        if self._file is None or self._stored is None:
            return self._arrays[row]
        return self._stored.read_pixels(row)

    def _move_to_disk(self) -> None:
        # No buffer: what a full disk refuses is said at once, not when the file is closed.
        self._file = tempfile.TemporaryFile(dir=find_spool_folder(), buffering=0)  # noqa: SIM115 - images are read from it
        self._stored = FilePixels(self._file, self._entries)
        for row, pixels in enumerate(self._arrays):
            self._write(self._file, pixels, self.digests[row])
        self._arrays.clear()

    def _write(self, file: IO[bytes], pixels: Pixels, digest: bytes) -> None:
        height, width, channels = pixels.shape
        last = self._entries[-1] if self._entries else None
        offset = 0 if last is None else last.offset + int(np.prod(last.shape)) * last.dtype.itemsize
        content = np.ascontiguousarray(pixels).data.cast("B")
        try:
            while content:
                content = content[file.write(content) :]
        except OSError as error:
            what = f"decoded images cannot be written to {find_spool_folder()}: {error.strerror}"
            raise StorageError(what, where=self.where, remedy=_ROOM_REMEDY) from None
        self._entries.append(PixelEntry(offset, (height, width, channels), pixels.dtype, digest))


def _format_bytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def find_spool_folder() -> Path:
    """Return the folder for decoded images: ``RBL_CACHE`` or the user's cache, else that of the system."""
    cache = os.environ.get("RBL_CACHE") or Path.home() / ".cache" / "robustbench_local"
    folder = Path(cache).expanduser() / "images"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.gettempdir())
    return folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())
