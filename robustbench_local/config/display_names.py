"""Names that users choose for tables and figures: printable, short, on one line."""

from __future__ import annotations

from robustbench_local.errors import escape_unprintable

MAX_DISPLAY_NAME_CHARACTERS = 60
"""Longest name that fits into a table."""


def check_display_name(name: str) -> str:
    """Return the name if a table can show it.

    Raises:
        ValueError: If it is empty, too long, has spaces around it, or has unprintable characters.
    """
    if not name or name != name.strip():
        raise ValueError("a name must not be empty or have spaces around it")
    if len(name) > MAX_DISPLAY_NAME_CHARACTERS:
        raise ValueError(f"a name has at most {MAX_DISPLAY_NAME_CHARACTERS} characters, got {len(name)}")
    if escape_unprintable(name) != name or not any(character.isprintable() for character in name):
        raise ValueError("a name must consist of printable characters")
    return name
