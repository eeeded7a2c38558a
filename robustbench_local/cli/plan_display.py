"""The plan as ``rbl run`` prints it before anything runs: cells, costs, and what the images can resolve."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console

from robustbench_local.cli.hardware_lines import list_hardware_lines
from robustbench_local.cli.model_table import build_model_table, list_model_objects
from robustbench_local.cli.plan_table import build_plan_table, list_cost_lines
from robustbench_local.cli.terminal_output import print_json, print_line
from robustbench_local.evaluation.execution.hardware.hardware_cost import HardwareCost
from robustbench_local.evaluation.execution.plan_cost import ExpectedPlanCost
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


def show_plan(
    plan: Plan,
    seconds: Mapping[str, float],
    expected: ExpectedPlanCost,
    console: Console,
    *,
    as_json: bool,
    dry_run: bool,
    hardware: Sequence[HardwareCost] = (),
) -> None:
    """Show the cells, their expected costs and the upper bounds, before anything runs.

    Args:
        plan: The plan.
        seconds: Maximum seconds by key of the cell, where known.
        expected: The expected costs.
        console: The console to print on.
        as_json: Whether to print JSON lines.
        dry_run: Whether nothing is run afterwards.
        hardware: The cost on named hardware.
    """
    if as_json:
        print_json(console, {"event": "models", "models": list_model_objects(plan)})
        print_json(console, _build_plan_event(plan, seconds, expected, hardware))
        return
    if (models := build_model_table(plan)) is not None:
        console.print(models)
    console.print(build_plan_table(plan, seconds, expected.cells))
    device = plan.subjects[0].classifier.device
    whole = f"{sum(cell.image_count for cell in plan.cells):,} image-attacks on {device}"
    most = format_duration(sum(seconds.values()))
    ending = "; nothing was run" if dry_run else ""
    line = (
        f"{whole}, passes of {most} at most; usually far less, since images stop at the first success{ending}"
    )
    print_line(console, line, wrap=True)
    for line in (*list_cost_lines(plan, expected), *list_hardware_lines(expected, hardware)):
        print_line(console, line, wrap=True)
    for row in (*_list_resolutions(plan), *_list_phase_resolutions(plan), _compute_class_resolution(plan)):
        if row is not None:
            print_line(console, str(row), wrap=True)
    for goal in describe_goals(plan.cells):
        print_line(console, f"goal: {goal}", wrap=True)
    for line in plan.warnings:
        print_line(console, f"note: {line}", style="yellow", wrap=True)


def _build_plan_event(
    plan: Plan, seconds: Mapping[str, float], expected: ExpectedPlanCost, hardware: Sequence[HardwareCost]
) -> dict[str, Any]:
    classes = _compute_class_resolution(plan)
    return {
        "event": "plan",
        "shard": None if plan.shard is None else str(plan.shard),
        "cells": [_describe_cell(plan, cell, seconds, expected) for cell in plan.cells],
        "expected": expected.to_json(),
        "hardware": [cost.to_json() for cost in hardware if expected.cpu_seconds.value],
        "resolution": [asdict(row) for row in _list_resolutions(plan)],
        "class_resolution": classes and asdict(classes),
        "phase_resolution": [asdict(row) for row in _list_phase_resolutions(plan)],
        "warnings": plan.warnings,
    }


def _describe_cell(
    plan: Plan, cell: CellSpec, seconds: Mapping[str, float], expected: ExpectedPlanCost
) -> dict[str, Any]:
    record, cost = cell.record, expected.cells.get(cell.record.key)
    most = seconds.get(record.key)
    return {
        "model": record.model,
        "defense": record.defense,
        "attack": record.attack,
        "label": plan.labels.get_attack_label(record.attack),
        "sources": format_classes(cell, record.sources),
        "targets": format_classes(cell, record.targets),
        "images": cell.image_count,
        "max_passes": sum(cell.max_passes),
        "max_seconds": None if most is None else round(most, 1),
        "expected_passes": cost and cost.passes and cost.passes.to_json(),
        "expected_cpu_seconds": cost and cost.cpu_seconds and cost.cpu_seconds.to_json(),
        "expected_from": cost and cost.source,
        "skip_reason": cell.skip_reason,
        "problem": None if cell.problem is None else str(cell.problem),
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
