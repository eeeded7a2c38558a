"""``rbl export``: a run as LaTeX tables, vector figures, model cards and RobustBench entries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_local.cli.completion import complete_paths


def command(
    run: Annotated[Path, typer.Argument(help="Run directory.", autocompletion=complete_paths)],
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            "-f",
            help="latex, figures, model-card or robustbench; may be repeated. By default all of them.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--out", "--output", "-o", help="Folder; by default export in the run directory."),
    ] = None,
) -> int:
    """Write a run in the forms of papers and model hubs, and print the name of each file.

    latex: tables in the style of booktabs. figures: the charts of the report as SVG and PDF. model-card: for
    each model a Markdown section with a model-index as on Hugging Face. robustbench: JSON as in RobustBench's
    model_info, for each model on which the standard AutoAttack has finished. Exit code 70 if an attack
    contradicts a certificate: then nothing is written.
    """
    from robustbench_local.cli.terminal_output import echo_line
    from robustbench_local.reports.exports.export_files import EXPORT_FORMATS, write_exports

    chosen = list(formats or EXPORT_FORMATS)
    paths = write_exports(run, output, chosen)
    for path in paths:
        echo_line(path)
    if not paths:
        echo_line(f"nothing to export as {', '.join(chosen)}: the run has no such results yet", error=True)
    return 0
