"""``rbl merge``: one run from parts that were computed apart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_local.cli.completion import complete_paths


def command(
    parts: Annotated[
        list[Path],
        typer.Argument(help="Run directories of the parts, two or more.", autocompletion=complete_paths),
    ],
    out: Annotated[
        Path, typer.Option("--out", "--output", "-o", help="Directory of the merged run, absent or empty.")
    ],
    as_json: Annotated[
        bool, typer.Option("--json", envvar="RBL_JSON", help="Print results as JSON lines.")
    ] = False,
) -> int:
    """Merge finished parts of a run into one run, write its report and check its gates.

    Parts may be other attacks or models on the same data, or other images of the same cells. Overlaps, gaps,
    and other grids or versions are refused by name. Exit code as that of rbl run.
    """
    from robustbench_local.cli.run_results import make_console, show_results
    from robustbench_local.cli.terminal_output import print_json, print_line
    from robustbench_local.counted_nouns import format_count
    from robustbench_local.merging.merge_runs import merge_runs

    merge_runs(parts, out)
    console = make_console(as_json=as_json)
    if as_json:
        print_json(console, {"event": "merged", "parts": len(parts), "directory": str(out)})
    else:
        print_line(console, f"merged {format_count(len(parts), 'part')} into {out}")
    return show_results(out, console, as_json=as_json)
