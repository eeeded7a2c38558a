"""``rbl report``: write the report of a run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_local.reports import write_report
from robustbench_local.reports.gate import check_gates


def command(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="HTML file; by default report.html in the run directory."),
    ] = None,
) -> int:
    """Write one self-contained HTML file, and beside it CSV, JSON, Markdown and figures.

    Exits 70 if an attack broke what a certificate had proven: then the report has no answer.
    """
    typer.echo(write_report(run, output))
    verdict = check_gates(run)
    for line in verdict.violations:
        typer.echo(f"blocked: certificate violated: {line}", err=True)
    return verdict.exit_code if verdict.violations else 0
