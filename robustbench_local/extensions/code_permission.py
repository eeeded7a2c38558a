"""The permission to run the file of ``python:FILE.py:NAME``, and the folder for relative paths."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CodePermission:
    """The user's permission for external code."""

    is_allowed: bool = False
    """True if it may run."""
    base_folder: Path | None = None
    """The folder in which relative paths are looked up before the working directory."""


_current: ContextVar[CodePermission] = ContextVar("code_permission", default=CodePermission())  # noqa: B039 - it is frozen


@contextmanager
def permit_code(is_allowed: bool, base_folder: Path | None = None) -> Iterator[None]:
    """Permit or refuse to run the user's own files inside the context, in this thread.

    Args:
        is_allowed: Permit the files; a permission that already exists is kept.
        base_folder: The folder in which relative paths are looked up; None keeps the current one.
    """
    previous = _current.get()
    permission = CodePermission(is_allowed or previous.is_allowed, base_folder or previous.base_folder)
    token = _current.set(permission)
    try:
        yield
    finally:
        _current.reset(token)


def get_code_permission() -> CodePermission:
    """Return the current permission."""
    return _current.get()
