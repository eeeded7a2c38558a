"""The table at the end of ``rbl train --models``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from robustbench_local.cli.terminal_output import escape_text, print_line
from robustbench_local.counted_nouns import format_count
from robustbench_local.evaluation.training.network_comparison_files import (
    describe_measurement,
    format_difference,
    format_figure,
)
from robustbench_local.evaluation.training.stability import FIGURES


def print_comparison(console: Console, record: Mapping[str, Any]) -> None:
    """Print the networks from the best to the worst, what to know of the figures, and the test.

    Args:
        console: Where to.
        record: From `choose_network`.
    """
    n = record["data"]["validation"]["n"]
    table = Table(title=f"{format_count(n, 'validation image')}, 95% intervals", title_justify="left")
    table.add_column("network", overflow="fold")
    for name in (*FIGURES, "score", "behind, points"):
        table.add_column(name, justify="right")
    for network in record["networks"]:
        figures = [network["figures"][name] for name in (*FIGURES, "score")]
        behind = format_difference(network["behind"]) if network["behind"] else "chosen"
        cells = [*map(format_figure, figures), behind]
        table.add_row(escape_text(network["name"]), *map(_stack_interval, cells))
    console.print(table)
    print_line(console, f"chosen: {record['chosen']['name']}, by the {record['rule']}")
    for note in record["notes"]:
        print_line(console, f"- {note}")
    for row in record["test"]:
        interval = f"95% interval {row['low']:.1%} to {row['high']:.1%}, n = {row['n']}"
        print_line(
            console, f"{row['images']}, {describe_measurement(row)}: {row['accuracy']:.1%}, {interval}"
        )


def _stack_interval(cell: str) -> str:
    """Return a figure with its interval on a line of its own, so that five of them fit into 80 columns."""
    return cell.replace(" [", "\n").replace(", ", " to ", 1).replace("], ", "\n").replace("]", "")
