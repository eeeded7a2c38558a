"""Large arrays of a NumPy archive, read row by row: they need not fit in memory."""

from __future__ import annotations

import os
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from robustbench_local.config.user_files import open_user_file
from robustbench_local.errors import DataError

MIN_STREAMED_BYTES = 256 << 20
"""Smallest size of an array that is read row by row; smaller ones are read at once."""
BLOCK_BYTES = 16 << 20
"""Size of the blocks of rows where all of them are read."""
_HEADER_READERS = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
}


class ArchiveArray:
    """An array in a ``.npz`` file, compressed or not, of which one row or block is in memory.

    Rows are cheap in ascending order, as all readers ask for them. A row before the last one read starts the
    compressed data again.

    Args:
        file: The archive.
        where: Its name in messages.
        member: Name of the array's file in the archive.
        shape: Shape of the array.
        dtype: Its type.
        offset: Bytes of its header.
    """

    def __init__(
        self, file: Path, where: str, member: str, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int
    ) -> None:
        self.shape, self.dtype, self.ndim = shape, dtype, len(shape)
        self._file, self._where, self._member, self._offset = file, where, member, offset
        self._row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        self._stamp = _stamp_file(file, where)
        self._opened: IO[bytes] | None = None
        self._descriptor = -1

    def __len__(self) -> int:
        return self.shape[0]

    def read_row(self, row: int) -> NDArray[Any]:
        """Return a row.

        Raises:
            DataError: If the archive is damaged, or is not the file that it was.
        """
        image: NDArray[Any] = self._read_rows(row, 1)[0]
        return image

    def iterate_blocks(self) -> Iterator[NDArray[Any]]:
        """Iterate over all rows in blocks of about ``BLOCK_BYTES``; errors as for ``read_row``."""
        step = max(1, BLOCK_BYTES // max(1, self._row_bytes))
        for start in range(0, len(self), step):
            yield self._read_rows(start, min(step, len(self) - start))

    def load(self) -> NDArray[Any]:
        """Return the whole array; errors as for ``read_row``."""
        return self._read_rows(0, len(self))

    def _read_rows(self, start: int, count: int) -> NDArray[Any]:
        size = count * self._row_bytes
        try:
            if self._opened is None:
                self._opened = self._open_member()
            self._opened.seek(self._offset + start * self._row_bytes)
            content = self._opened.read(size)
            if start + count == len(self):
                self._opened.read(1)  # the checksum is compared at the end of the member
        except (OSError, EOFError, ValueError, LookupError, zipfile.BadZipFile, zlib.error) as error:
            raise self._build_error(getattr(error, "strerror", None) or str(error)) from None
        self._check_stamp(_read_stamp(os.fstat(self._descriptor)))
        if len(content) != size:
            raise self._build_error("it ends too early")
        return np.frombuffer(content, dtype=self.dtype).reshape(count, *self.shape[1:])

    def _open_member(self) -> IO[bytes]:
        self._check_stamp(_stamp_file(self._file, self._where))
        opened = open_user_file(self._file, where=self._where, error=DataError)
        weakref.finalize(self, opened.close)
        self._descriptor = opened.fileno()
        return zipfile.ZipFile(opened).open(self._member)

    def _check_stamp(self, stamp: tuple[int, int, int]) -> None:
        if stamp != self._stamp:
            what, remedy = "the file has changed since it was opened", "run the same command again"
            raise DataError(what, where=self._where, remedy=remedy)

    def _build_error(self, reason: str) -> DataError:
        return DataError(f"cannot be read: {reason}", where=self._where, remedy="write or copy it again")


def find_large_array(archive: zipfile.ZipFile, name: str, file: Path, where: str) -> ArchiveArray | None:
    """Return an array of an archive to be read row by row, or None for one to be read at once.

    Args:
        archive: The archive, open.
        name: Name of the array.
        file: The archive's file.
        where: Its name in messages.
    """
    member = next((entry for entry in (f"{name}.npy", name) if entry in archive.namelist()), None)
    if member is None or archive.getinfo(member).file_size < MIN_STREAMED_BYTES:
        return None
    with archive.open(member) as opened:
        read_header = _HEADER_READERS.get(npy_format.read_magic(opened))
        if read_header is None:
            return None
        shape, is_by_column, dtype = read_header(opened)
        offset = opened.tell()
    size = int(np.prod(shape, dtype=np.float64)) * dtype.itemsize
    if is_by_column or dtype.hasobject or not shape or offset + size > archive.getinfo(member).file_size:
        return None  # NumPy reads it, or says what is wrong
    return ArchiveArray(file, where, member, shape, dtype, offset)


def _stamp_file(file: Path, where: str) -> tuple[int, int, int]:
    try:
        return _read_stamp(file.stat())
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=where) from None


def _read_stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns
