"""Whether ``python:FILE.py:NAME`` may run its file, and the folder that its path starts from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CodePermission:
    """What the user said about code of their own."""

    is_allowed: bool = False
    """Whether it may run."""
    base_folder: Path | None = None
    """The folder that relative paths start from; then the working directory."""


_current: ContextVar[CodePermission] = ContextVar("code_permission", default=CodePermission())  # noqa: B039 - it is frozen


@contextmanager
def permit_code(is_allowed: bool, base_folder: Path | None = None) -> Iterator[None]:
    """Inside, in this thread, the user's own files may run or not.

    Args:
        is_allowed: Whether they may; what is allowed already stays allowed.
        base_folder: The folder that relative paths start from; None keeps the one there is.
    """
    before = _current.get()
    permission = CodePermission(is_allowed or before.is_allowed, base_folder or before.base_folder)
    token = _current.set(permission)
    try:
        yield
    finally:
        _current.reset(token)


def get_code_permission() -> CodePermission:
    """What holds here."""
    return _current.get()
