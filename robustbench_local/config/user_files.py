"""Opening files that users name: regular files of a stated size only, so that no reader waits for ever.

Every reader of a grid, a card, weights, an archive, an image or a report's evidence comes through here. A
link to a FIFO would wait for ever, ``/dev/zero`` never ends, and a sparse file of 100 GB takes no room on the
disk and all of it in memory: the file is looked at before it is opened, and again once it is open.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from robustbench_local.errors import ConfigError, RobustbenchError

SIZE_VARIABLE = "RBL_MAX_FILE_GIB"
"""Environment variable that changes the largest size of weights and archives, in GiB."""
GIB, MIB = 1 << 30, 1 << 20
MAX_FILE_GIB = 16.0
"""Size of weights and archives, unless the variable says otherwise."""
MIN_SPARSE_BYTES = 64 * MIB
MAX_SPARSE_SHARE = 0.01
"""A file of at least this size with less than this share of it on the disk is sparse: all but empty."""

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
    """The bytes of a file that a user named.

    Args:
        path: The file; a link is followed to what it leads to, which has to be a regular file.
        where: What messages call it; by default the path.
        error: What to raise.
        limit: Most bytes that it may have; by default ``read_max_file_bytes()``.
        remedy: What to do about a file that cannot be opened.

    Raises:
        RobustbenchError: As ``error``: it is missing, unreadable, no regular file, too large or sparse.
    """
    name = str(path) if where is None else where
    with open_user_file(path, where=name, error=error, limit=limit, remedy=remedy) as file:
        most = read_max_file_bytes(error) if limit is None else limit
        try:
            content = _read_at_most(file, most)
        except MemoryError:
            raise error("there is not enough memory to read it", where=name) from None
        except OSError as failure:
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
    """The same file, open and checked, for readers that take it in parts; the caller closes it."""
    name = str(path) if where is None else where
    try:
        _check_file_status(
            path.stat(), name, error, limit
        )  # before it is opened: opening a device may do something
        # Without waiting: what was a file a moment ago may be a FIFO now.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as failure:
        raise error(f"cannot be read: {_format_reason(failure)}", where=name, remedy=remedy) from None
    except ValueError:
        raise error("the path holds a NUL character", where=repr(name)) from None
    try:
        _check_file_status(os.fstat(descriptor), name, error, limit)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        with suppress(OSError):
            os.close(descriptor)
        raise


def check_user_file(
    path: Path,
    *,
    where: str | None = None,
    error: type[RobustbenchError] = ConfigError,
    limit: int | None = None,
) -> None:
    """Make sure that a file may be handed to a library that opens it itself; errors as `read_user_file`."""
    open_user_file(path, where=where, error=error, limit=limit).close()


def read_max_file_bytes(error: type[RobustbenchError] = ConfigError) -> int:
    """Most bytes of weights and archives: what the environment says, else ``MAX_FILE_GIB``.

    Raises:
        RobustbenchError: As ``error``: the variable is no positive number.
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
    """What is in a file, or one byte more than it may have; memory is taken for what is there alone."""
    size = os.fstat(file.fileno()).st_size
    content = file.read(min(size, most) + 1)
    while size < len(content) <= most and (more := file.read(MIB)):  # it grew, or does not say its size
        content += more
    return content


def _check_file_status(
    found: os.stat_result, name: str, error: type[RobustbenchError], limit: int | None
) -> None:
    for is_kind, kind in _REFUSED_KINDS:
        if is_kind(found.st_mode):
            raise error(f"is {kind}, not a file", where=name, remedy="name a regular file")
    most = read_max_file_bytes(error) if limit is None else limit
    if found.st_size > most:
        raise _build_size_error(error, name, f"{found.st_size:,}", most, fixed=limit is not None)
    on_disk = 512 * getattr(found, "st_blocks", found.st_size)
    if found.st_size >= MIN_SPARSE_BYTES and on_disk < MAX_SPARSE_SHARE * found.st_size:
        what = f"is sparse: of its {found.st_size:,} bytes only {on_disk:,} are on the disk"
        raise error(what, where=name, remedy="get the file again: this one is all but empty")


def _build_size_error(
    error: type[RobustbenchError], name: str, size: str, most: int, *, fixed: bool
) -> RobustbenchError:
    remedy = "name the right file" if fixed else f"name the right file, or set {SIZE_VARIABLE} to more"
    return error(f"the file has {size} bytes, the limit is {most:,}", where=name, remedy=remedy)


def _format_reason(failure: OSError) -> str:
    if failure.errno == errno.ENXIO:  # how a socket or a FIFO without a reader answers
        return "not a regular file"
    return failure.strerror or str(failure)
