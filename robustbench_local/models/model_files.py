"""Reading of a model's file, with an optional check of its SHA-256."""

from __future__ import annotations

import hashlib
from pathlib import Path

from robustbench_local.config.user_files import read_user_file
from robustbench_local.errors import ModelError


def read_file(path: Path, *, sha256: str | None = None) -> tuple[bytes, str]:
    """Return the bytes of a model's file and their SHA-256, hexadecimal.

    Args:
        path: The file.
        sha256: Its required SHA-256, with or without the prefix ``sha256:``.

    Raises:
        ModelError: If it is unreadable, not a regular file, too large or empty, or has another SHA-256.
    """
    content = read_user_file(path, where=path.name, error=ModelError)
    digest = hashlib.sha256(content).hexdigest()
    if sha256 is not None and strip_hash_prefix(sha256) != digest:
        raise ModelError(
            f"its SHA-256 is {digest}, not the {strip_hash_prefix(sha256)} that was recorded",
            where=path.name,
            remedy="get the original file again, or record the new hash if you changed it",
        )
    if not content:
        raise ModelError("the file is empty", where=path.name, remedy="get it again")
    return content, digest


def strip_hash_prefix(sha256: str) -> str:
    """Normalize a hash that the user wrote."""
    return sha256.removeprefix("sha256:").lower()
