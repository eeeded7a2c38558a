"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reference_generator.docstrings import to_markdown


def render_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars and line breaks in cells cannot break it."""
    lines = [_render_row(head), _render_row(["---"] * len(head)), *map(_render_row, rows)]
    return "\n".join(lines) + "\n"


def render_code(value: object) -> str:
    """A value as inline code."""
    return f"`{value}`"


def _render_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_escape_cell(cell) for cell in cells) + " |"


def _escape_cell(cell: str) -> str:
    return to_markdown(" ".join(cell.split())).replace("|", "\\|").replace("<", "&lt;")
