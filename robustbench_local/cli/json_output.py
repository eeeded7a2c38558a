"""The standard output as JSON lines and nothing else: all that models print goes to the error output."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

_undo: list[Callable[[], None]] = []


def claim_stdout() -> TextIO:
    """The standard output for our own lines; all else that is written to it goes to the standard error.

    That holds for Python's ``print``, for C code that writes to file descriptor 1, and for processes that are
    started from now on, until `release_stdout`.
    """
    stdout = sys.stdout
    stdout.flush()
    own = stdout
    if _descriptor(stdout) == 1 and _descriptor(sys.stderr) is not None:
        kept = os.dup(1)
        os.dup2(sys.stderr.fileno(), 1)
        own = os.fdopen(kept, "w", encoding=stdout.encoding, errors=stdout.errors, newline="")
        _undo.append(lambda: _put_back(kept, own))
    sys.stdout = sys.stderr
    _undo.append(lambda: setattr(sys, "stdout", stdout))
    return own


def release_stdout() -> None:
    """Give the standard output back to everybody. Does nothing if it was not claimed."""
    while _undo:
        with suppress(OSError, ValueError):
            _undo.pop()()


def _put_back(kept: int, own: TextIO) -> None:
    try:
        own.flush()
    finally:
        os.dup2(kept, 1)
        with suppress(OSError):
            own.close()


def _descriptor(stream: TextIO) -> int | None:
    """The file descriptor of a stream; None if it has none, as under a test that captures it."""
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None
