"""Atomic file writes: a crash, a full disk or a power cut leaves the old content or the new, never a part."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from robustbench_local.errors import ConfigError, RefusedError, RobustbenchError, StorageError

_DISK_ERROR_CODES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""The location is valid, but the disk cannot take the write now; freeing space and rerunning helps."""
_TEMPORARY_SUFFIX = ".writing"


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace a file's content in one step that survives a crash; see ``open_atomically``.

    Args:
        path: The file; its folder must exist.
        content: Bytes, or text to write as UTF-8 with unchanged newlines.
    """
    with open_atomically(path) as file:
        file.write(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)


@contextlib.contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a file whose content replaces that of ``path`` in one step when the context ends without an error.

    The content is written to a temporary file in the same folder and flushed to the disk. The temporary file
    is renamed to the file's name. Then the folder is flushed, because names are the folder's content.

    Args:
        path: The file; its folder must exist.

    Raises:
        StorageError: The disk is full or failing; the old content is unchanged.
        ConfigError: The location is not writable.
        RefusedError: A symbolic link is in its place.
    """
    refuse_link(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY_SUFFIX}")
    with convert_storage_errors(path):
        try:
            temporary.unlink(missing_ok=True)
            with temporary.open("xb") as file:  # never through an existing link
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Flush a folder's names to the disk, if the system lets a folder be opened (not Windows)."""
    with contextlib.suppress(PermissionError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_directory(directory: Path) -> None:
    """Create a folder and its parents, unless it exists.

    Raises:
        ConfigError: Some part of the path is a file, is not writable or is not a valid name.
        StorageError: The disk is full.
    """
    with convert_storage_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)


def make_directory_in(directory: Path, name: str) -> Path:
    """Create a folder inside another one, unless it exists, and return its path.

    Raises:
        RefusedError: The path is a symbolic link, so files would be written elsewhere.
        ConfigError: As for `make_directory`, like all other errors.
    """
    folder = directory / name
    refuse_link(folder)
    make_directory(folder)
    return folder


def refuse_link(path: Path) -> None:
    """Refuse a symbolic link, so that data is written to this path and nowhere else.

    Raises:
        RefusedError: It is a symbolic link.
    """
    with convert_storage_errors(path):
        if not path.is_symlink():
            return
        target = path.readlink()
    raise RefusedError(
        f"is a symbolic link to {target}, and files would be written outside the folder",
        where=str(path),
        remedy="remove the link, or choose another folder",
    )


def remove_temporary_files(directory: Path) -> None:
    """Delete the temporary files that a killed process left in a folder and below it."""
    with convert_storage_errors(directory):
        for leftover in directory.rglob(f".*{_TEMPORARY_SUFFIX}"):
            leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def convert_storage_errors(path: Path) -> Iterator[None]:
    """Convert the operating system's errors about a path to one-line errors with the right exit code.

    Args:
        path: The file or folder to name.

    Raises:
        StorageError: The disk is full or failing; the same command can resume later.
        ConfigError: The location is wrong (a file in the way, not writable, not a valid name).
    """
    try:
        yield
    except OSError as error:
        raise _convert_os_error(error, path) from error
    except ValueError as error:
        # Python's error for a NUL inside a path.
        if "null" not in str(error):
            raise
        raise ConfigError("the path contains a NUL character", where=repr(str(path))) from error


def _convert_os_error(error: OSError, path: Path) -> RobustbenchError:
    """Convert an error of the operating system to an error for the user."""
    reason = (error.strerror or str(error)).lower()
    where = str(path)
    if error.errno in _DISK_ERROR_CODES:
        remedy = "free some space and run the same command again; what was committed is kept"
        return StorageError(f"the disk refused a write ({reason})", where=where, remedy=remedy)
    return ConfigError(f"cannot be used ({reason})", where=where, remedy="choose another folder")
