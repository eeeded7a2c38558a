"""Writing a bundle: a zip archive whose bytes depend on its files alone."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from pathlib import Path

from robustbench_local.store.atomic_files import open_atomically

_FIRST_ZIP_DATE = (1980, 1, 1, 0, 0, 0)
"""The time of every entry, so that the same files give the same archive."""
_REGULAR_FILE_MODE = 0o100644
_STORED_SUFFIXES = frozenset({".png"})
"""Files that are compressed already."""


def list_files(folder: Path) -> list[str]:
    """List the files below a folder, as names with ``/``, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_archive(folder: Path, out: Path) -> None:
    """Write all files below a folder to an archive, in one step that survives a crash.

    The same files give the same bytes, with the same version of zlib.

    Args:
        folder: The folder.
        out: The archive; an existing file is replaced.

    Raises:
        StorageError: If the disk refuses a write.
        ConfigError: If the location is not writable.
        RefusedError: If a symbolic link is in its place.
    """
    with open_atomically(out) as file, zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for name in list_files(folder):
            source = folder / name
            entry = zipfile.ZipInfo(name, _FIRST_ZIP_DATE)
            entry.create_system = 3  # Unix, whatever the machine
            entry.external_attr = _REGULAR_FILE_MODE << 16
            entry.compress_type = (
                zipfile.ZIP_STORED if source.suffix in _STORED_SUFFIXES else zipfile.ZIP_DEFLATED
            )
            entry.file_size = source.stat().st_size
            with source.open("rb") as content, archive.open(entry, "w") as target:
                shutil.copyfileobj(content, target, 1 << 20)
