"""Detection of decompression bombs from a zip archive's list of contents, before unpacking."""

from __future__ import annotations

import io
import zipfile
from typing import BinaryIO

from robustbench_local.config.user_files import GIB, SIZE_VARIABLE, read_max_file_bytes
from robustbench_local.errors import RefusedError, RobustbenchError

MIN_BOMB_BYTES = GIB
"""Archives that unpack to less pass whatever their ratio: a black image compresses well."""
MAX_COMPRESSION_RATIO = 200
"""Largest ratio of unpacked to packed bytes; photographs and weights stay below 10."""
MAX_ENTRIES = 1_000_000


def check_zip_bomb(
    archive: BinaryIO | bytes, *, where: str, error: type[RobustbenchError], remedy: str
) -> None:
    """Check the list of contents of a zip archive; anything but an archive passes.

    Args:
        archive: The file, open for reading, or its bytes.
        where: Its name in messages.
        error: The class of error for an archive that is merely too large.
        remedy: Advice for a bomb.

    Raises:
        RefusedError: If it is a bomb: one entry, or all together, unpack to far more than their packed size,
            or entries overlap, so that the same bytes unpack many times.
        RobustbenchError: As ``error``, if it unpacks to more than ``read_max_file_bytes()``.
    """
    file = io.BytesIO(archive) if isinstance(archive, bytes) else archive
    start = file.tell()
    file.seek(0, io.SEEK_END)
    size = file.tell()
    try:
        with zipfile.ZipFile(file) as opened:
            entries = opened.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, RuntimeError):
        return
    finally:
        file.seek(start)
    unpacked = sum(entry.file_size for entry in entries)
    packed = min(sum(entry.compress_size for entry in entries), size)
    has_bomb_entry = any(
        entry.file_size > max(MIN_BOMB_BYTES, MAX_COMPRESSION_RATIO * min(entry.compress_size, size))
        for entry in entries
    )
    if (
        has_bomb_entry
        or unpacked > max(MIN_BOMB_BYTES, MAX_COMPRESSION_RATIO * packed)
        or len(entries) > MAX_ENTRIES
    ):
        what = f"{packed:,} bytes unpack to {unpacked:,}, as a decompression bomb does"
        raise RefusedError(what, where=where, remedy=remedy)
    if unpacked > (most := read_max_file_bytes(error)):
        what = f"it unpacks to {unpacked:,} bytes, the limit is {most:,}"
        raise error(what, where=where, remedy=f"name the right file, or set {SIZE_VARIABLE} to more")
