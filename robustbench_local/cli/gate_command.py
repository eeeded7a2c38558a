"""``rbl gate``: check a run against its gates and exit with the verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_local.cli.completion import complete_paths


def command(
    run: Annotated[Path, typer.Argument(help="Run directory.", autocompletion=complete_paths)],
) -> int:
    """Check a run against its gates: exit code 0 if all pass, 1 if one fails, 4 if one is inconclusive."""
    from rich.console import Console

    from robustbench_local.cli.result_tables import print_gates
    from robustbench_local.reports.analysis.gates import judge_run_dir

    verdict = judge_run_dir(run)
    print_gates(verdict, Console())
    return verdict.exit_code
