"""The directory of a run, derived from the name of its grid without importing torch."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.grid.schema import Grid

_PATH_SEPARATORS = '/\\:*?"<>|' if os.name == "nt" else "/\\"
_INVISIBLE_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
_BIDI_CHARACTERS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
"""Invisible characters that reverse the text around them."""
_WINDOWS_DEVICES = frozenset(
    {"CON", "PRN", "AUX", "NUL"} | {f"{port}{number}" for port in ("COM", "LPT") for number in range(1, 10)}
)
"""Names that Windows reserves for devices, with any extension."""
MAX_NAME_BYTES = 255
"""Longest folder name that every file system accepts."""


def find_run_directory(grid: Grid, out: Path | str | None, shard: str | None = None) -> Path:
    """Return the directory of a run.

    Args:
        grid: The grid, after which it is named.
        out: The directory that the user chose, if any.
        shard: The part of the run that it is for, such as ``2/8``; each has a directory of its own.

    Raises:
        ConfigError: If the name is no valid folder name.
    """
    part = "" if shard is None else f"-shard-{shard.replace('/', '-of-')}"
    directory = Path("runs") / f"{grid.name or 'grid'}{part}" if out is None else Path(out)
    why = "" if out is not None else _explain_unsafe_name(grid.name or "grid")
    if "\0" in str(directory) or any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in directory.parts):
        why = why or "it has a NUL or a part that is too long"
    if why:
        raise ConfigError(
            f"{str(directory)[:60]!r} cannot be a run's folder: {why}",
            remedy="choose a plain name, or use --out",
        )
    nearest = next((path for path in (directory, *directory.absolute().parents) if path.exists()), None)
    if nearest is not None and not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise ConfigError(
            "the run's folder cannot be written to", where=str(directory), remedy="use another --out"
        )
    return directory


def _explain_unsafe_name(name: str) -> str:
    """Explain why a grid's name is no valid folder name on every system; empty if it is one."""
    if any(sign in _BIDI_CHARACTERS or unicodedata.category(sign) in _INVISIBLE_CATEGORIES for sign in name):
        return "it has invisible characters"
    if any(sign in name for sign in _PATH_SEPARATORS):
        return f"it has one of {' '.join(_PATH_SEPARATORS)}"
    if name != name.strip() or name.startswith("-") or name.endswith("."):
        return "it begins with a dash, ends with a dot, or has spaces around it"
    if name.split(".", 1)[0].strip().upper() in _WINDOWS_DEVICES:
        return "Windows has a device of that name"
    return ""
