"""``python -m benchmarks.plan_accuracy``: plan a grid, run it, and compare."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

# before torch starts its threads
os.environ.setdefault("OMP_NUM_THREADS", "1")

import typer

from benchmarks.plan_accuracy.comparison import RunCost, compare_costs, render_table
from benchmarks.plan_accuracy.grids import GRID_NAMES, write_grids
from robustbench_local.cli.progress_display import ProgressDisplay
from robustbench_local.evaluation.execution.model_speed import estimate_max_seconds, measure_model_speeds
from robustbench_local.evaluation.execution.plan_cost import ExpectedPlanCost
from robustbench_local.evaluation.execution.plan_pilot import choose_pilot_seconds, estimate_plan_cost
from robustbench_local.evaluation.options import Options
from robustbench_local.run import execute_run, prepare_run

T = TypeVar("T")


def main(
    grids: Annotated[str, typer.Option(help=f"With commas; of {', '.join(GRID_NAMES)}.")] = "",
    shared: Annotated[Path | None, typer.Option(help="Folder with MNIST, CIFAR and checkpoints.")] = None,
    pilot_seconds: Annotated[float, typer.Option(help="Limit of the pilot.", min=0)] = 30.0,
    seed: Annotated[int, typer.Option(help="Seed of plan and run.", min=0)] = 0,
    out: Annotated[Path | None, typer.Option(help="Append a JSON line for each grid to it.")] = None,
) -> None:
    """Print predicted over actual for each grid, and how many ranges hold, in one process and one thread."""
    compared = []
    options = Options(workers=1, seed=seed, device="cpu")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, grid in write_grids(folder, shared and shared.resolve(), grids).items():
            directory = folder / name / "run"
            expected = _call_in_fork(lambda: _predict(grid, directory, options, pilot_seconds))  # noqa: B023
            actual = _call_in_fork(lambda: _run(grid, directory, options))  # noqa: B023
            compared.append(compare_costs(name, expected, actual))
            print(f"{name}: passes {compared[-1].passes}, CPU seconds {compared[-1].cpu_seconds}", flush=True)
            if out is not None:
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(compared[-1].to_json()) + "\n")
    print(render_table(compared))


def _predict(grid: Path, directory: Path, options: Options, pilot_seconds: float) -> ExpectedPlanCost:
    plan, directory = prepare_run(grid, directory, options=options, is_dry_run=True)
    speeds = measure_model_speeds(plan)
    seconds = choose_pilot_seconds(pilot_seconds, estimate_max_seconds(plan, speeds))
    return estimate_plan_cost(plan, directory, speeds, seconds=seconds)


def _run(grid: Path, directory: Path, options: Options) -> RunCost:
    plan, directory = prepare_run(grid, directory, options=options)
    display = ProgressDisplay()
    execute_run(plan, directory, display)
    rows = {row.cell.record.key: row for row in display.state.cells}
    return RunCost(
        passes={key: row.counts.forward_passes + row.counts.backward_passes for key, row in rows.items()},
        titles={key: f"{row.cell.subject} {row.cell.record.attack}" for key, row in rows.items()},
        cpu_seconds=display.timing["cpu_seconds"],
        peak_bytes=display.timing["peak_bytes"],
    )


def _call_in_fork(function: Callable[[], T]) -> T:
    """Call a function in a fork of this process: its memory and its CPU time are its own."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sender.send(function()))
    child.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        child.join()


if __name__ == "__main__":
    typer.run(main)
