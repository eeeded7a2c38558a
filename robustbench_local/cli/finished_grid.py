"""``rbl run`` on a finished run: its report and its gates, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from robustbench_local.cli.run_results import make_console, show_results
from robustbench_local.cli.terminal_output import print_json, print_line
from robustbench_local.evaluation.execution import finished_run
from robustbench_local.evaluation.grid.run_directory import find_run_directory
from robustbench_local.evaluation.grid.schema import Grid, load_grid
from robustbench_local.evaluation.options import Options
from robustbench_local.reports.formatting.text import format_count
from robustbench_local.store.run_store import RunStore


@dataclass(frozen=True, kw_only=True)
class DescribedGrid:
    """A grid with its overrides from the command line, and the directory of its run."""

    grid: Grid
    """The grid as written in its file."""
    base: Path
    """Folder that its relative paths start from."""
    directory: Path
    """The run directory."""
    card_folders: tuple[Path, ...]
    """Folders of the user's own cards."""
    options: Options
    """The options from the command line."""

    @classmethod
    def from_options(cls, source: Path | None, out: Path | None, options: Options) -> DescribedGrid:
        """Read the grid file.

        Args:
            source: The grid file; None for the embedded grid.
            out: The run directory; None: by the grid's name.
            options: The options of the run.

        Raises:
            ConfigError: If the grid cannot be read, or the directory cannot be used.
        """
        grid, base = load_grid(source)
        beside = base / "cards"
        return cls(
            grid=grid,
            base=base,
            directory=find_run_directory(grid, out, options.shard),
            card_folders=(*map(Path, options.cards), *([beside] if beside.is_dir() else [])),
            options=options,
        )

    def describe_inputs(self) -> dict[str, str] | None:
        """Return what the outcome depends on, by the current files; None where they do not determine it."""
        return finished_run.describe_inputs(self.grid, self.base, self.card_folders, self.options)

    def is_finished(self) -> bool:
        """Check whether the directory holds this same run, finished."""
        return finished_run.may_be_finished(self.directory) and finished_run.is_finished(
            self.directory, self.describe_inputs()
        )


def show_finished_run(directory: Path, *, as_json: bool) -> int:
    """Write the report again, show the results and check the gates.

    Args:
        directory: The run directory.
        as_json: Whether to print JSON lines.

    Returns:
        The exit code.
    """
    console = make_console(as_json=as_json)
    with RunStore.open_readonly(directory) as store:
        count = len(store.read_cells())
    if as_json:
        print_json(console, {"event": "finished", "cells": count})
    else:
        print_line(console, f"all {format_count(count, 'cell')} done, nothing has changed: nothing was run")
    return show_results(directory, console, as_json=as_json)
