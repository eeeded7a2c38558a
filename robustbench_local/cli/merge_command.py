"""``rbl merge``: one run from parts that were computed apart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_local.cli.completion import complete_paths


def command(
    parts: Annotated[
        list[Path],
        typer.Argument(
            help="Run directories of the parts, two or more; or a folder of them.",
            autocompletion=complete_paths,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "--output", "-o", help="Directory of the merged run, absent or empty.")
    ],
    as_json: Annotated[
        bool, typer.Option("--json", envvar="RBL_JSON", help="Print results as JSON lines.")
    ] = False,
) -> int:
    """Merge finished parts of a run into one run, write its report and check its gates.

    Parts may be the shards of one run, other attacks or models on the same data, or other images of the same
    cells. Overlaps, gaps, missing shards, and other grids or versions are refused by name. Exit code as that
    of rbl run.
    """
    from robustbench_local.cli.run_results import make_console, show_results
    from robustbench_local.cli.terminal_output import print_json, print_line
    from robustbench_local.counted_nouns import format_count
    from robustbench_local.merging.merge_runs import list_run_directories, merge_runs

    runs = list_run_directories(parts)
    merge_runs(runs, out)
    console = make_console(as_json=as_json)
    if as_json:
        print_json(console, {"event": "merged", "parts": len(runs), "directory": str(out)})
    else:
        print_line(console, f"merged {format_count(len(runs), 'part')} into {out}")
    return show_results(out, console, as_json=as_json)
