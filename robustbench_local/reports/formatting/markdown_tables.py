"""Text and tables for Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from robustbench_local.errors import escape_unprintable

_SPECIAL_PATTERN = re.compile(r"([\\`*_\[\]|~$])|(?<=^)([#+=-])|(?<=^\d)([.)])(?=\s|$)")


def escape_markdown(text: str) -> str:
    """Escape a text from outside, so that Markdown and HTML show it unchanged and on one line."""
    plain = (
        escape_unprintable(" ".join(text.split()))
        .replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
    )
    return _SPECIAL_PATTERN.sub(r"\\\g<0>", plain)


def render_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Render the lines of a table whose cells are already escaped."""
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
