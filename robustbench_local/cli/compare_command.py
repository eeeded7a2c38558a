"""``rbl compare``: is a run worse than another one, and where?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from robustbench_local.cli.completion import complete_paths
from robustbench_local.errors import ConfigError

ComparisonForm = Literal["text", "markdown", "json", "html"]
"""Forms of a comparison on standard output."""
INCOMPLETE_EXIT_CODE = 4


def command(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Run directories: the baseline first, then one or more runs to compare with it.",
            autocompletion=complete_paths,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "--output",
            "-o",
            help="Folder for compare.html, compare.md and compare.json, or one file of these kinds.",
        ),
    ] = None,
    form: Annotated[
        ComparisonForm,
        typer.Option("--format", help="Form on standard output; with --out, the only file that is written."),
    ] = "text",
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="ID=ID",
            help="Model of the baseline and the model to compare with it, where ids differ; repeatable.",
        ),
    ] = None,
    pictures: Annotated[
        int, typer.Option(min=0, help="Largest number of pictures of changed images for each model.")
    ] = 12,
    allow_different_data: Annotated[
        bool,
        typer.Option(
            "--allow-different-data", help="Compare runs on other images too, without pairs of images."
        ),
    ] = False,
) -> int:
    """Compare runs with a baseline, image by image: robust accuracy, attacks, classes, gates and cost.

    The first sentence says whether a run is worse. Exit code 4 if the runs have no result in common.
    """
    from robustbench_local.cli.comparison_output import print_comparison
    from robustbench_local.cli.terminal_output import echo_line, write_text
    from robustbench_local.reports.comparison_files import (
        format_comparison,
        read_comparison,
        write_comparison,
    )

    data = read_comparison(
        runs, _parse_pairs(models or []), allow_different_data=allow_different_data, max_pictures=pictures
    )
    files = [] if output is None else write_comparison(data, output, None if form == "text" else form)
    if form == "text":
        print_comparison(data)
    elif output is None:
        write_text(format_comparison(data, form))
    for path in files:
        echo_line(f"comparison: {path}")
    is_known = any(model.main_row for comparison in data.comparisons for model in comparison.models)
    return 0 if is_known else INCOMPLETE_EXIT_CODE


def _parse_pairs(entries: list[str]) -> dict[str, str]:
    """Parse ``ID=ID`` entries; the first ``=`` divides.

    Raises:
        ConfigError: If one has another form, or two name the same model of the baseline.
    """
    pairs: dict[str, str] = {}
    for entry in entries:
        first, sign, second = (part.strip() for part in entry.partition("="))
        if not (first and sign and second):
            raise ConfigError(
                f"{entry!r} names no two models", where="--model", remedy="write BASELINE_ID=ID"
            )
        if first in pairs:
            raise ConfigError(
                f"{first!r} is named twice", where="--model", remedy="compare it with one model"
            )
        pairs[first] = second
    return pairs
