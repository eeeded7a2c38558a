"""The choice of a progress display: a table on a terminal, JSON lines for a program, else plain lines."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from robustbench_local.cli.json_display import JsonDisplay
from robustbench_local.cli.live_display import LiveDisplay
from robustbench_local.cli.plain_display import PlainDisplay


def choose_display(
    console: Console, max_seconds: Mapping[str, float], *, as_json: bool
) -> LiveDisplay | PlainDisplay | JsonDisplay:
    """Choose the display of a run.

    Args:
        console: The console of standard output.
        max_seconds: Maximum seconds by key of the cell, where known.
        as_json: Whether JSON lines are asked for.

    Returns:
        A table only where the output really is a terminal that can move its cursor: ``FORCE_COLOR`` makes
        colours in a log, never a table.
    """
    if as_json:
        return JsonDisplay(console, max_seconds)
    can_redraw = console.is_terminal and console.file.isatty() and not console.is_dumb_terminal
    return (LiveDisplay if can_redraw else PlainDisplay)(console, max_seconds)
