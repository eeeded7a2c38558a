"""The only module that prints: user text is never markup, and no control character reaches a terminal."""

from __future__ import annotations

import json
import sys
from typing import Any, TextIO

from rich.console import Console
from rich.style import Style
from rich.text import Text

from robustbench_local.errors import escape_unprintable


def escape_text(text: object, style: str | Style = "") -> Text:
    """Escape text for rich: brackets, ``:smile:`` and escape sequences are shown literally."""
    return Text(escape_unprintable(str(text)), style=style)


def join_text(*parts: Text | str) -> Text:
    """Join several parts, each with its own style, to one line."""
    return Text.assemble(*(part if isinstance(part, Text) else escape_text(part) for part in parts))


def print_line(console: Console, line: object, *, style: str | None = None, wrap: bool = False) -> None:
    """Print one line.

    Args:
        console: The console to print on.
        line: A line, or the result of `join_text`.
        style: Style of the whole line.
        wrap: Whether a long line is broken between words; else the terminal breaks it anywhere.
    """
    shown = line if isinstance(line, Text) else escape_text(line)
    console.print(shown, style=style, highlight=False, soft_wrap=not wrap)


def print_json(console: Console, content: Any, *, indent: int | None = None) -> None:
    """Print a value as ASCII JSON, on one line unless indented; control characters are escaped."""
    console.out(json.dumps(content, indent=indent), highlight=False)


def echo_line(line: object, *, error: bool = False) -> None:
    """Print one line without rich, on standard output or standard error."""
    print(escape_unprintable(str(line)), file=sys.stderr if error else sys.stdout)


def escape_unencodable() -> None:
    """Escape characters that a terminal cannot encode, so that they do not end the command."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def write_text(text: str, stream: TextIO | None = None) -> None:
    """Write the content of a file to standard output, or to a stream in its place, unchanged.

    Its form has escaped what it must.
    """
    (stream or sys.stdout).write(text)
