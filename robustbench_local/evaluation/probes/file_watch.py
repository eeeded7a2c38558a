"""Detection of files that change while a model is queried: state that no copy of the model can reset."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

_CODE_SUFFIXES = (".py", ".pyc", ".so")
_CLOCK_SLACK_SECONDS = 0.02
"""Resolution of file times, which is that of the kernel's clock."""
_open_watches: list[dict[str, bool]] = []
"""The opened files of each active watch, and whether they were read."""


@contextmanager
def watch_files() -> Iterator[dict[str, bool]]:
    """Record the files that Python code opens, other than code itself.

    Yields:
        A mapping that holds, after the context closes, the paths of the files that changed meanwhile, and
        whether they were opened for reading, too.
    """
    _install_audit_hook()
    started, opened = time.time() - _CLOCK_SLACK_SECONDS, dict[str, bool]()
    changed: dict[str, bool] = {}
    _open_watches.append(opened)
    try:
        yield changed
    finally:
        _open_watches[:] = [watch for watch in _open_watches if watch is not opened]
    for path, is_read in opened.items():
        with suppress(OSError, ValueError):
            if Path(path).is_file() and Path(path).stat().st_mtime >= started:
                changed[path] = is_read


@cache
def _install_audit_hook() -> None:
    """Install the audit hook: Python calls it at every event until exit, because it cannot be removed."""
    sys.addaudithook(_record_opened_file)


def _record_opened_file(event: str, arguments: tuple[Any, ...]) -> None:
    if _open_watches and event in {"open", "sqlite3.connect", "os.rename"}:
        # a file that is written under a temporary name is recorded by its final name
        file = arguments[1] if event == "os.rename" else arguments[0]
        if isinstance(file, str | bytes | os.PathLike):
            path = os.fsdecode(file)
            if not path.endswith(_CODE_SUFFIXES):
                for opened in _open_watches:
                    opened[path] = opened.get(path, False) or _is_reading(event, arguments)


def _is_reading(event: str, arguments: tuple[Any, ...]) -> bool:
    """Return whether an event may read the content of its file."""
    if event != "open":
        return event == "sqlite3.connect"
    mode = arguments[1] if len(arguments) > 1 else None
    if isinstance(mode, str):
        return "r" in mode or "+" in mode
    flags = arguments[2] if len(arguments) > 2 and isinstance(arguments[2], int) else 0
    return not flags & os.O_WRONLY
