"""Writing files so that a crash, a full disk or a power cut leaves the old content or the new, never half."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from robustbench_local.errors import ConfigError, RefusedError, RobustbenchError, StorageError

_DISK_ERROR_CODES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""The place is right but the disk will not take it now: free some space and run again."""
_TEMPORARY_SUFFIX = ".writing"


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace a file's content in one step that survives a crash.

    The content goes to a temporary file in the same folder, is flushed to the disk, and takes the
    file's name; then the folder itself is flushed, since a name is the folder's content.

    Args:
        path: The file; its folder must exist.
        content: Text is written as UTF-8 with the newlines it has.

    Raises:
        StorageError: The disk is full or failing; the old content is untouched.
        ConfigError: The place cannot be written to.
        RefusedError: A symbolic link is in its place.
    """
    refuse_link(path)
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY_SUFFIX}")
    with convert_storage_errors(path):
        try:
            temporary.unlink(missing_ok=True)
            with temporary.open("xb") as file:  # never through a link that somebody put there
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Flush a folder's list of names to the disk, where the system lets a folder be opened (not Windows)."""
    with contextlib.suppress(PermissionError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_directory(directory: Path) -> None:
    """Make a folder, with its parents, unless it is there.

    Raises:
        ConfigError: Some part of the path is a file, cannot be written to or is not a valid name.
        StorageError: The disk is full.
    """
    with convert_storage_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)


def make_directory_in(directory: Path, name: str) -> Path:
    """Make a folder of ours inside another one, unless it is there; gives it.

    Raises:
        RefusedError: A symbolic link is in its place: what is written would be somewhere else.
        ConfigError: As `make_directory`, as are all others.
    """
    folder = directory / name
    refuse_link(folder)
    make_directory(folder)
    return folder


def refuse_link(path: Path) -> None:
    """Make sure that what is about to be written at a path is written there and nowhere else.

    Raises:
        RefusedError: It is a symbolic link.
    """
    with convert_storage_errors(path):
        if not path.is_symlink():
            return
        leads = path.readlink()
    raise RefusedError(
        f"is a symbolic link to {leads}, and what is written would leave the folder",
        where=str(path),
        remedy="remove the link, or choose another folder",
    )


def remove_temporary_files(directory: Path) -> None:
    """Delete the temporary files that a killed process left in a folder and below."""
    with convert_storage_errors(directory):
        for leftover in directory.rglob(f".*{_TEMPORARY_SUFFIX}"):
            leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def convert_storage_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says about a path into one line with the right exit code.

    Args:
        path: The file or folder to name.

    Raises:
        StorageError: The disk is full or failing; the same command can resume later.
        ConfigError: The place is wrong (a file in the way, not writable, not a valid name).
    """
    try:
        yield
    except OSError as error:
        raise _convert_os_error(error, path) from error
    except ValueError as error:
        # How Python refuses a NUL inside a path.
        if "null" not in str(error):
            raise
        raise ConfigError("the path holds a NUL character", where=repr(str(path))) from error


def _convert_os_error(error: OSError, path: Path) -> RobustbenchError:
    """Say an operating system error to the user."""
    reason = (error.strerror or str(error)).lower()
    where = str(path)
    if error.errno in _DISK_ERROR_CODES:
        remedy = "free some space and run the same command again; what was committed is kept"
        return StorageError(f"the disk refused a write ({reason})", where=where, remedy=remedy)
    return ConfigError(f"cannot be used ({reason})", where=where, remedy="choose another folder")
