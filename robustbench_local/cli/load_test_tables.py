"""The tables of a load test on the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from robustbench_local.cli.terminal_output import escape_text, print_json, print_line
from robustbench_local.reports.analysis.load_figures import (
    LOAD_NAMES,
    describe_process,
    describe_setup,
    describe_trend,
    format_accuracy,
    format_figure,
)
from robustbench_local.store.load_test_records import LoadTestRecord


def print_load_test(record: LoadTestRecord, path: Path | None, *, as_json: bool) -> None:
    """Print a load test.

    Args:
        record: The load test.
        path: The file that it was written to, if any.
        as_json: As JSON instead of tables.
    """
    console = Console()
    if as_json:
        print_json(console, record.model_dump(mode="json"), indent=2)
        return
    console.print(build_load_table(record))
    if record.accuracies:
        console.print(_build_accuracy_table(record))
    for trend in record.soak.trends if record.soak else ():
        print_line(console, describe_trend(trend), style="red" if trend.is_alarm else None, wrap=True)
    for line in (describe_process(record), describe_setup(record)):
        if line:
            print_line(console, line, wrap=True)
    for finding in record.findings:
        style = "red" if finding.level == "problem" else "yellow"
        print_line(console, f"{finding.level}: {finding.text}", style=style, wrap=True)
    if path is not None:
        print_line(console, path)


def build_load_table(record: LoadTestRecord) -> Table:
    """Build the table of the loads, with 95% intervals."""
    title = f"{record.model}: throughput and latency with 95% intervals ({LOAD_NAMES})"
    table = Table(title=escape_text(title), title_justify="left")
    table.add_column("load", overflow="fold", min_width=8)
    for column in ("images/s", "p50 ms", "p95 ms", "p99 ms", "n", "errors"):
        table.add_column(column, justify="right", overflow="fold")
    for load in [*record.loads, *([record.soak.load] if record.soak else ())]:
        is_soak = record.soak is not None and load is record.soak.load
        table.add_row(
            escape_text(f"{load.name}{' soak' if is_soak else ''}"),
            *(format_figure(one) for one in (load.throughput, load.p50_ms, load.p95_ms, load.p99_ms)),
            f"{load.requests:,}",
            escape_text(f"{load.failed_requests:,}", "red" if load.errors else ""),
        )
    return table


def _build_accuracy_table(record: LoadTestRecord) -> Table:
    table = Table(title="Accuracy of the service before and after the loads", title_justify="left")
    table.add_column("images", overflow="fold")
    for column in ("before", "after", "changed answers"):
        table.add_column(column, justify="right", overflow="fold")
    for row in record.accuracies:
        table.add_row(
            escape_text(row.images),
            format_accuracy(row.before),
            format_accuracy(row.after),
            f"{row.changed:,} of {row.n:,}",
        )
    return table
