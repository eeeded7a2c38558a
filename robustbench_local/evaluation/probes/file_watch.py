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
_open_watches: list[set[str]] = []
"""The opened files of each active watch."""


@contextmanager
def watch_files() -> Iterator[set[str]]:
    """Record the files that Python code opens, other than code itself.

    Yields:
        A set that holds, after the context closes, the paths of the files that changed meanwhile.
    """
    _install_audit_hook()
    started, opened, changed = time.time() - _CLOCK_SLACK_SECONDS, set[str](), set[str]()
    _open_watches.append(opened)
    try:
        yield changed
    finally:
        _open_watches.remove(opened)
    for path in opened:
        with suppress(OSError, ValueError):
            if Path(path).is_file() and Path(path).stat().st_mtime >= started:
                changed.add(path)


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
                    opened.add(path)
