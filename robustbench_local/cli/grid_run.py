"""The work of ``rbl run``: plan, show the plan, run, report, check the gates."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from robustbench_local.cli.finished_grid import DescribedGrid
from robustbench_local.cli.json_display import JsonDisplay
from robustbench_local.cli.json_events import print_early_end, print_run_end
from robustbench_local.cli.live_display import LiveDisplay
from robustbench_local.cli.plain_display import PlainDisplay
from robustbench_local.cli.plan_display import show_plan
from robustbench_local.cli.progress import choose_display
from robustbench_local.cli.run_results import INCOMPLETE_EXIT_CODE, make_console, show_results
from robustbench_local.cli.terminal_output import print_json, print_line
from robustbench_local.evaluation.execution.cluster.cluster_settings import ClusterSettings
from robustbench_local.evaluation.execution.finished_run import INPUTS_KEY
from robustbench_local.evaluation.execution.hardware.hardware_card import HardwareCard
from robustbench_local.evaluation.execution.hardware.hardware_cost import extrapolate_costs
from robustbench_local.evaluation.execution.model_speed import estimate_max_seconds, measure_model_speeds
from robustbench_local.evaluation.execution.plan_pilot import (
    PILOT_SECONDS,
    choose_pilot_seconds,
    estimate_plan_cost,
)
from robustbench_local.evaluation.options import Options
from robustbench_local.evaluation.planning.plan import Plan
from robustbench_local.run import execute_run, prepare_run
from robustbench_local.store.run_costs import COSTS_KEY
from robustbench_local.store.run_store import RunStore

MAX_STORED_COSTS = 100
"""Number of calls whose costs a run keeps, the latest ones."""


def run_with_options(
    grid: Path | None,
    out: Path | None,
    options: Options,
    described: DescribedGrid,
    *,
    dry_run: bool,
    as_json: bool,
    pilot_seconds: float = PILOT_SECONDS,
    hardware: Sequence[HardwareCard] = (),
) -> int:
    """Plan a grid, show the plan, run it, report it and check its gates.

    Args:
        grid: Grid file; None for the embedded grid.
        out: Run directory; None for ``runs/NAME``.
        options: The options of the run.
        described: The same grid, with the inputs that its outcome depends on.
        dry_run: Whether only the plan is shown.
        as_json: Whether progress and results are JSON lines.
        pilot_seconds: Most seconds in which a dry run measures a few images of each cell; 0: none.
        hardware: Cards that the expected time is extrapolated to.

    Returns:
        The exit code.
    """
    console, inputs = make_console(as_json=as_json), None if dry_run else described.describe_inputs()
    with print_early_end(console) if as_json and not dry_run else nullcontext():
        if not as_json:
            print_line(console, "loading data and models", style="dim")
        plan, directory = prepare_run(
            grid,
            out,
            options=options,
            is_dry_run=dry_run,
            report=lambda line: _print_training(console, line, as_json=as_json),
        )
        speeds = measure_model_speeds(plan)
        max_seconds = estimate_max_seconds(plan, speeds)
        seconds = choose_pilot_seconds(pilot_seconds, max_seconds) if dry_run else 0.0
        if seconds and not as_json:
            print_line(console, f"measuring a few images of each cell, for {seconds:.0f} s", style="dim")
        expected = estimate_plan_cost(plan, directory, speeds, seconds=seconds)
        device = plan.subjects[0].classifier.device.type
        costs = extrapolate_costs(expected.cpu_seconds, hardware, device=device)
        show_plan(plan, max_seconds, expected, console, as_json=as_json, dry_run=dry_run, hardware=costs)
        if dry_run:
            return INCOMPLETE_EXIT_CODE if any(cell.problem for cell in plan.cells) else 0
        display = choose_display(console, max_seconds, as_json=as_json)
        with display:
            run = execute_run(
                plan,
                directory,
                display,
                exit_process=partial(_exit_incomplete, display, as_json=as_json),
                recompute_damaged=options.recompute_damaged,
                cluster=ClusterSettings.from_options(options),
            )
    if run.is_complete and inputs is not None and described.describe_inputs() == inputs:
        _remember_inputs(plan, directory, inputs)  # no file has changed meanwhile
    if display.timing:
        _remember_costs(plan, directory, {"plan": expected.to_json(), **display.timing})
    for line in () if as_json else (display.format_timing_line(), display.format_cost_line()):
        if line:
            print_line(console, line, style="dim", wrap=True)
    return show_results(directory, console, as_json=as_json, timing=display.timing)


def _remember_inputs(plan: Plan, directory: Path, inputs: dict[str, str]) -> None:
    """Store the inputs, so that the next call recognizes the finished run without planning it."""
    with RunStore.create_or_open(
        directory, resolved_yaml=plan.resolved_yaml, identity=plan.identity
    ) as store:
        if store.read_meta(INPUTS_KEY) != inputs:
            store.update_meta({INPUTS_KEY: inputs})


def _remember_costs(plan: Plan, directory: Path, costs: dict[str, Any]) -> None:
    """Store what this call was expected to cost, and what it did; a resumed run keeps those of each call."""
    with RunStore.create_or_open(
        directory, resolved_yaml=plan.resolved_yaml, identity=plan.identity
    ) as store:
        store.update_meta({COSTS_KEY: [*store.read_meta(COSTS_KEY, []), costs][-MAX_STORED_COSTS:]})


def _exit_incomplete(display: LiveDisplay | PlainDisplay | JsonDisplay, *, as_json: bool) -> None:
    """Exit a process with a hanging model that cannot be interrupted; committed outcomes are kept."""
    with suppress(Exception):  # the terminal gets its cursor back
        display.stop()
        if as_json:
            print_run_end(display.console, INCOMPLETE_EXIT_CODE)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INCOMPLETE_EXIT_CODE)


def _print_training(console: Console, line: str, *, as_json: bool) -> None:
    """Print a progress line of a training, which precedes the plan."""
    if as_json:
        print_json(console, {"event": "training", "message": line})
        return
    print_line(console, line, style="dim")
