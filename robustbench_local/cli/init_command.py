"""``rbl init``: a commented grid file to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_local.cli.completion import complete_examples
from robustbench_local.cli.terminal_output import echo_line
from robustbench_local.errors import ConfigError


def command(
    name: Annotated[
        str,
        typer.Option(
            "--example",
            help="Which example; 'rbl list examples' shows them.",
            autocompletion=complete_examples,
        ),
    ] = "folder",
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write; never overwritten.")] = Path(
        "grid.yaml"
    ),
) -> None:
    """Write a commented grid file."""
    from robustbench_local.evaluation.grid.example_grids import read_example

    text = read_example(name)
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(
            "the file is there already", where=str(output), remedy="choose another with -o"
        ) from None
    except OSError as failure:
        raise ConfigError(f"cannot write the file: {failure.strerror}", where=str(output)) from None
    echo_line(f"wrote {output}; edit it, then: rbl run {output}")
