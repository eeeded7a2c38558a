"""Safe access to files that users name: regular files of a limited size, so that no reader hangs.

Every reader of a grid, a card, weights, an archive, an image or a report's evidence uses this module. A link
to a FIFO would block forever, ``/dev/zero`` never ends, and a sparse file of 100 GB takes no space on the
disk and all of it in memory. So a file's status is checked before it is opened, and again afterwards.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from robustbench_local.errors import ConfigError, IncompleteError, RobustbenchError

SIZE_VARIABLE = "RBL_MAX_FILE_GIB"
"""Environment variable that changes the largest size of weights and archives, in GiB."""
GIB, MIB = 1 << 30, 1 << 20
MAX_FILE_GIB = 16.0
"""Default limit for weights and archives, in GiB."""
MIN_SPARSE_BYTES = 64 * MIB
MAX_SPARSE_SHARE = 0.01
"""A file of at least this size, of which less than this share is on the disk, counts as sparse."""

_SHORTAGES = frozenset({errno.ENOMEM, errno.EMFILE, errno.ENFILE})
"""Failures of the machine and not of a file."""
_REFUSED_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def read_user_file(
    path: Path,
    *,
    where: str | None = None,
    error: type[RobustbenchError] = ConfigError,
    limit: int | None = None,
    remedy: str | None = None,
) -> bytes:
    """Return the bytes of a file that a user named.

    Args:
        path: The file; a link is followed, and its target has to be a regular file.
        where: Its name in messages; by default the path.
        error: The class of error to raise.
        limit: Largest size in bytes; by default ``read_max_file_bytes()``.
        remedy: Advice for a file that cannot be opened.

    Raises:
        RobustbenchError: As ``error``, if it is missing, unreadable, not a regular file, too large or sparse.
        IncompleteError: If the machine is short of memory or of open files: the file is not to blame.
    """
    name = str(path) if where is None else where
    with open_user_file(path, where=name, error=error, limit=limit, remedy=remedy) as file:
        most = read_max_file_bytes(error) if limit is None else limit
        try:
            content = _read_at_most(file, most)
        except MemoryError:
            raise _build_shortage_error("there is not enough memory to read it", name) from None
        except OSError as failure:
            _check_shortage(failure, name)
            raise error(f"cannot be read: {failure.strerror or failure}", where=name, remedy=remedy) from None
    if len(content) > most:
        raise _build_size_error(error, name, f"more than {most:,}", most, fixed=limit is not None)
    return content


def open_user_file(
    path: Path,
    *,
    where: str | None = None,
    error: type[RobustbenchError] = ConfigError,
    limit: int | None = None,
    remedy: str | None = None,
) -> BinaryIO:
    """Open and check such a file, for readers that take it in parts; the caller closes it."""
    name = str(path) if where is None else where
    try:
        # Check before opening, because opening a device may have side effects.
        _check_file_status(path.stat(), name, error, limit)
        # Open without blocking: the file may have been replaced by a FIFO since the check.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as failure:
        _check_shortage(failure, name)
        raise error(f"cannot be read: {_format_reason(failure)}", where=name, remedy=remedy) from None
    except ValueError:
        raise error("the path contains a NUL character", where=repr(name)) from None
    try:
        _check_file_status(os.fstat(descriptor), name, error, limit)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        with suppress(OSError):
            os.close(descriptor)
        raise


def _check_shortage(failure: OSError, name: str) -> None:
    """Refuse to blame a file for what the machine is short of."""
    if failure.errno in _SHORTAGES:
        raise _build_shortage_error(f"cannot be read: {failure.strerror}", name) from failure


def _build_shortage_error(what: str, name: str) -> IncompleteError:
    remedy = "end other programs, or use a larger machine; then the same command again"
    return IncompleteError(what, where=name, remedy=remedy)


def check_user_file(
    path: Path,
    *,
    where: str | None = None,
    error: type[RobustbenchError] = ConfigError,
    limit: int | None = None,
) -> None:
    """Check a file before a library opens it by itself; errors as for `read_user_file`."""
    open_user_file(path, where=where, error=error, limit=limit).close()


def read_max_file_bytes(error: type[RobustbenchError] = ConfigError) -> int:
    """Return the size limit of weights and archives: the environment variable's, else ``MAX_FILE_GIB``.

    Raises:
        RobustbenchError: As ``error``, if the variable is not a positive number.
    """
    text = os.environ.get(SIZE_VARIABLE, "")
    try:
        gib = float(text) if text else MAX_FILE_GIB
    except ValueError:
        gib = 0.0
    if not 0 < gib < 1 << 30:
        raise error(f"must be a positive number of GiB, got {text!r}", where=SIZE_VARIABLE)
    return int(gib * GIB)


def _read_at_most(file: BinaryIO, most: int) -> bytes:
    """Read up to ``most`` + 1 bytes; memory is allocated only for what exists."""
    size = os.fstat(file.fileno()).st_size
    content = file.read(min(size, most) + 1)
    # The loop is for a file that grew, or does not report its size.
    while size < len(content) <= most and (more := file.read(MIB)):
        content += more
    return content


def _check_file_status(
    status: os.stat_result, name: str, error: type[RobustbenchError], limit: int | None
) -> None:
    for is_kind, kind in _REFUSED_KINDS:
        if is_kind(status.st_mode):
            raise error(f"is {kind}, not a file", where=name, remedy="name a regular file")
    most = read_max_file_bytes(error) if limit is None else limit
    if status.st_size > most:
        raise _build_size_error(error, name, f"{status.st_size:,}", most, fixed=limit is not None)
    on_disk = 512 * getattr(status, "st_blocks", status.st_size)
    if status.st_size >= MIN_SPARSE_BYTES and on_disk < MAX_SPARSE_SHARE * status.st_size:
        what = f"is sparse: of its {status.st_size:,} bytes only {on_disk:,} are on the disk"
        raise error(what, where=name, remedy="get the file again: this one is nearly empty")


def _build_size_error(
    error: type[RobustbenchError], name: str, size: str, most: int, *, fixed: bool
) -> RobustbenchError:
    remedy = "name the right file" if fixed else f"name the right file, or set {SIZE_VARIABLE} to more"
    return error(f"the file has {size} bytes, the limit is {most:,}", where=name, remedy=remedy)


def _format_reason(failure: OSError) -> str:
    if failure.errno == errno.ENXIO:  # from a socket, or from a FIFO without a reader
        return "not a regular file"
    return failure.strerror or str(failure)
