"""``rbl report``: write the report of a run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_local.reports import write_report


def command(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="HTML file; by default report.html in the run directory."),
    ] = None,
) -> None:
    """Write one self-contained HTML file, and beside it CSV, JSON, Markdown and figures."""
    typer.echo(write_report(run, output))
