"""The work of ``rbl run``: plan, show the plan, run, report, check the gates."""

from __future__ import annotations

import os
import sys
from collections import Counter
from contextlib import nullcontext, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rich.console import Console

from robustbench_local.cli.finished_grid import DescribedGrid
from robustbench_local.cli.json_display import JsonDisplay
from robustbench_local.cli.json_events import print_early_end, print_run_end
from robustbench_local.cli.live_display import LiveDisplay
from robustbench_local.cli.model_table import build_model_table, list_model_objects
from robustbench_local.cli.plain_display import PlainDisplay
from robustbench_local.cli.plan_table import build_plan_table
from robustbench_local.cli.progress import choose_display
from robustbench_local.cli.run_results import INCOMPLETE_EXIT_CODE, make_console, show_results
from robustbench_local.cli.terminal_output import print_json, print_line
from robustbench_local.evaluation.execution.finished_run import INPUTS_KEY
from robustbench_local.evaluation.execution.model_speed import try_measure_speed
from robustbench_local.evaluation.options import Options
from robustbench_local.evaluation.planning.goal import describe_goals, format_classes
from robustbench_local.evaluation.planning.plan import CellSpec, Plan
from robustbench_local.reports.analysis.phase_resolution import PhaseResolution, compute_phase_resolution
from robustbench_local.reports.analysis.resolution import (
    ClassResolution,
    GroupResolution,
    Resolution,
    compute_class_resolution,
    compute_group_resolution,
    list_resolutions,
)
from robustbench_local.reports.formatting.text import format_duration
from robustbench_local.run import execute_run, prepare_run
from robustbench_local.store.run_store import RunStore


def run_with_options(
    grid: Path | None,
    out: Path | None,
    options: Options,
    described: DescribedGrid,
    *,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Plan a grid, show the plan, run it, report it and check its gates.

    Args:
        grid: Grid file; None for the embedded grid.
        out: Run directory; None for ``runs/NAME``.
        options: The options of the run.
        described: The same grid, with the inputs that its outcome depends on.
        dry_run: Whether only the plan is shown.
        as_json: Whether progress and results are JSON lines.

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
        max_seconds = _estimate_max_seconds(plan)
        _show_plan(plan, max_seconds, console, as_json=as_json, dry_run=dry_run)
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
            )
    if run.is_complete and inputs is not None and described.describe_inputs() == inputs:
        _remember_inputs(plan, directory, inputs)  # no file has changed meanwhile
    if not as_json and (line := display.format_timing_line()):
        print_line(console, line, style="dim", wrap=True)
    return show_results(directory, console, as_json=as_json, timing=display.timing)


def _remember_inputs(plan: Plan, directory: Path, inputs: dict[str, str]) -> None:
    """Store the inputs, so that the next call recognizes the finished run without planning it."""
    with RunStore.create_or_open(
        directory, resolved_yaml=plan.resolved_yaml, identity=plan.identity
    ) as store:
        if store.read_meta(INPUTS_KEY) != inputs:
            store.update_meta({INPUTS_KEY: inputs})


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


def _estimate_max_seconds(plan: Plan) -> dict[str, float]:
    """Return an upper bound in seconds for each cell, by its key, where one can be estimated."""
    cells = [cell for cell in plan.cells if cell.problem is None]
    attacked = {_name_network(cell): cell.queried_subject for cell in cells}
    speeds = {name: try_measure_speed(subject, plan.timeout) for name, subject in attacked.items()}
    known = {name: speed for name, speed in speeds.items() if speed is not None}
    return {
        cell.record.key: known[name].estimate_seconds(cell.max_passes)
        for cell in cells
        if (name := _name_network(cell)) in known
    }


def _list_resolutions(plan: Plan) -> list[Resolution | GroupResolution]:
    """Return what the smallest and the largest number of images under an attack can resolve."""
    cells = [cell for cell in plan.cells if not cell.skip_reason and not cell.problem]
    rows = list_resolutions([len(cell.positions) for cell in cells], len(plan.subjects))
    groups = plan.data.group_by_image
    if not groups:
        return [*rows]
    positions = {len(cell.positions): cell.positions.tolist() for cell in cells}
    return [
        compute_group_resolution(
            row.images,
            len({groups[plan.data.ids[position]] for position in positions[row.images]}),
            row.models,
        )
        for row in rows
    ]


def _list_phase_resolutions(plan: Plan) -> list[PhaseResolution]:
    """Return what attacks with different numbers of images can tell together, once for alike models."""
    if plan.data.group_by_image:
        return []
    images: dict[tuple[object, ...], dict[str, int]] = {}
    positions: dict[tuple[object, ...], list[int]] = {}
    for cell in plan.cells:
        record = cell.record
        is_counted = record.goal == "untargeted" and record.knowledge not in {"transfer", "naive"}
        is_counted &= record.norm != "corruption" and record.measure in {"ball", "distance"}
        if is_counted and not cell.skip_reason and not cell.problem:
            key = (record.model, record.defense, record.threat, record.sources)
            label = plan.labels.get_attack_label(record.attack)
            images.setdefault(key, {})[label] = len(cell.positions)
            positions[key] = max(positions.get(key, []), cell.positions.tolist(), key=len)
    sizes = {
        key: list(Counter(plan.data.labels[chosen].tolist()).values()) for key, chosen in positions.items()
    }
    rows = (compute_phase_resolution(by_attack, sizes[key]) for key, by_attack in images.items())
    return list(dict.fromkeys(row for row in rows if row is not None))


def _compute_class_resolution(plan: Plan) -> ClassResolution | None:
    """Return what the images of single classes can resolve."""
    return compute_class_resolution(list(Counter(plan.data.labels.tolist()).values()))


def _name_network(cell: CellSpec) -> str:
    """Return a name that models of the same network share, because their passes take the same time."""
    return cell.queried_subject.network or str(cell.queried_subject)


def _round_seconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _show_plan(
    plan: Plan, seconds: dict[str, float], console: Console, *, as_json: bool, dry_run: bool
) -> None:
    """Show the cells, the passes and the upper bound of their time, before anything runs."""
    if as_json:
        cells = [
            {
                "model": cell.record.model,
                "defense": cell.record.defense,
                "attack": cell.record.attack,
                "label": plan.labels.get_attack_label(cell.record.attack),
                "sources": format_classes(cell, cell.record.sources),
                "targets": format_classes(cell, cell.record.targets),
                "images": cell.image_count,
                "max_passes": sum(cell.max_passes),
                "max_seconds": _round_seconds(seconds.get(cell.record.key)),
                "skip_reason": cell.skip_reason,
                "problem": None if cell.problem is None else str(cell.problem),
            }
            for cell in plan.cells
        ]
        resolution = [asdict(row) for row in _list_resolutions(plan)]
        classes = _compute_class_resolution(plan)
        phases = [asdict(row) for row in _list_phase_resolutions(plan)]
        print_json(console, {"event": "models", "models": list_model_objects(plan)})
        event = {
            "event": "plan",
            "cells": cells,
            "resolution": resolution,
            "class_resolution": classes and asdict(classes),
            "phase_resolution": phases,
            "warnings": plan.warnings,
        }
        print_json(console, event)
        return
    if (models := build_model_table(plan)) is not None:
        console.print(models)
    console.print(build_plan_table(plan, seconds))
    ending = ""
    if dry_run:
        ending = ". The expected time is measured on the first images of the run; nothing was run"
    device = plan.subjects[0].classifier.device
    whole = f"{sum(cell.image_count for cell in plan.cells):,} image-attacks on {device}"
    most = format_duration(sum(seconds.values()))
    print_line(
        console,
        f"{whole}, {most} at most; usually far less, since images stop at the first success{ending}",
        wrap=True,
    )
    for row in (*_list_resolutions(plan), *_list_phase_resolutions(plan), _compute_class_resolution(plan)):
        if row is not None:
            print_line(console, str(row), wrap=True)
    for goal in describe_goals(plan.cells):
        print_line(console, f"goal: {goal}", wrap=True)
    for line in plan.warnings:
        print_line(console, f"note: {line}", style="yellow", wrap=True)
