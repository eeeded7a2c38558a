"""``rbl report``: write the report of a run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_local.cli.completion import complete_paths


def command(
    run: Annotated[Path, typer.Argument(help="Run directory.", autocompletion=complete_paths)],
    output: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "--output",
            "-o",
            help="HTML file, or a folder for report.html; by default the run directory.",
        ),
    ] = None,
    interactive: Annotated[
        bool,
        typer.Option(
            "--interactive",
            help="Charts with a choice of the model, drawn by Vega-Lite inside the page (extra `charts`).",
        ),
    ] = False,
) -> int:
    """Write one self-contained HTML file, and beside it CSV, JSON, Markdown and figures.

    Exit code 70 if an attack contradicts a certificate: then the report gives no answer. Exit code 2 if
    stored images are damaged: the report is written without them.
    """
    from robustbench_local.cli.terminal_output import echo_line
    from robustbench_local.reports import find_damaged_images, write_report_files

    written = write_report_files(run, output, interactive=interactive)
    echo_line(written.page)
    for note in written.notes:
        echo_line(f"note: {note}", error=True)
    verdict = written.gate_report
    for line in verdict.violations:
        echo_line(f"blocked: certificate violated: {line}", error=True)
    if verdict.violations:
        return verdict.exit_code
    if damage := find_damaged_images(run):
        raise damage
    return 0
