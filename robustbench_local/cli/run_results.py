"""The end of ``rbl run``: results, gates, and the location of the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from robustbench_local.cli.json_events import list_gate_objects, print_run_end
from robustbench_local.cli.json_output import claim_stdout
from robustbench_local.cli.result_tables import build_results_table, print_gates, print_trust
from robustbench_local.cli.shard_lines import format_shard_end
from robustbench_local.cli.terminal_output import echo_line, print_json, print_line
from robustbench_local.reports import find_damaged_images, write_report_files
from robustbench_local.store.run_store import RunStore

INCOMPLETE_EXIT_CODE = 4
LOG_WIDTH_CHARACTERS = 120


def show_results(
    directory: Path, console: Console, *, as_json: bool, timing: Mapping[str, Any] | None = None
) -> int:
    """Write the report of a run, show its results and check its gates.

    Args:
        directory: The run directory.
        console: The console to print on.
        as_json: Whether to print JSON lines.
        timing: Actual, expected and maximum seconds of the run, for JSON; None if no cell was run.

    Returns:
        The exit code.

    Raises:
        DamagedError: If stored images are damaged and there is no worse error.
    """
    page, results, verdict, notes = write_report_files(directory)
    with RunStore.open_readonly(directory) as store:
        is_complete = all(cell.status in {"done", "stopped", "skipped"} for cell in store.read_cells())
    judged = verdict.exit_code
    if results["shard"] is not None and not verdict.violations:
        judged = 0  # a scheduler waits for its work; the gates wait for the merge
    code = judged or (0 if is_complete else INCOMPLETE_EXIT_CODE)
    damage = find_damaged_images(directory)
    if as_json:
        print_json(console, {"event": "results", **results})
        for gate in list_gate_objects(verdict, directory):
            print_json(console, {"event": "gate", **gate})
        final = code or (damage.exit_code if damage else 0)
        print_run_end(console, final, report=page, timing=timing)
    else:
        console.print(build_results_table(results))
        print_trust(results, console)
        print_gates(verdict, console)
        if line := format_shard_end(results, is_complete=is_complete):
            print_line(console, line, wrap=True)
        print_line(console, f"report: {page}")
    for note in notes:
        echo_line(f"note: {note}", error=True)
    if damage:
        if not code:
            raise damage
        echo_line(f"rbl: {damage}", error=True)
    return code


def make_console(*, as_json: bool) -> Console:
    """Make a console for standard output: as wide as the terminal, or wide enough for tables in a log.

    With JSON, standard output is reserved for it until the command ends.
    """
    if as_json:
        return Console(file=claim_stdout(), soft_wrap=True, width=LOG_WIDTH_CHARACTERS)
    console = Console()
    return console if console.is_terminal else Console(width=LOG_WIDTH_CHARACTERS)
