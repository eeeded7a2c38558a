"""Standard output reserved for JSON lines: everything that models print goes to standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

_undo_actions: list[Callable[[], None]] = []


def claim_stdout() -> TextIO:
    """Reserve standard output for this command; everything else written to it goes to standard error.

    That applies to Python's ``print``, to C code that writes to file descriptor 1, and to processes that are
    started from now on, until `release_stdout`.
    """
    stdout = sys.stdout
    stdout.flush()
    own = stdout
    if _find_descriptor(stdout) == 1 and _find_descriptor(sys.stderr) is not None:
        descriptor = os.dup(1)
        os.dup2(sys.stderr.fileno(), 1)
        own = os.fdopen(descriptor, "w", encoding=stdout.encoding, errors=stdout.errors, newline="")
        _undo_actions.append(lambda: _restore_stdout(descriptor, own))
    sys.stdout = sys.stderr
    _undo_actions.append(lambda: setattr(sys, "stdout", stdout))
    return own


def release_stdout() -> None:
    """Release standard output. Does nothing if it was not claimed."""
    while _undo_actions:
        with suppress(OSError, ValueError):
            _undo_actions.pop()()


def _restore_stdout(descriptor: int, own: TextIO) -> None:
    try:
        own.flush()
    finally:
        os.dup2(descriptor, 1)
        with suppress(OSError):
            own.close()


def _find_descriptor(stream: TextIO) -> int | None:
    """Return the file descriptor of a stream; None if it has none, as in a test that captures it."""
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None
