"""The main goal of a run with targeted attacks, and its success on each model."""

from __future__ import annotations

from collections import defaultdict

from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.distrust_reasons import explain_mark
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.per_target import find_goal_parts
from robustbench_local.reports.analysis.trust import select_distrust
from robustbench_local.reports.formatting.text import (
    format_budget,
    format_count,
    format_estimate,
    isolate_direction,
    join_extremes,
    join_in_sentence,
)

_GoalKey = tuple[str, float, tuple[int, ...], tuple[int, ...]]
"""Norm, radius, source and target classes."""


def select_main_goal_cells(evidence: Evidence) -> list[CellResult]:
    """Select the strongest attack on each model under the goal that covers most models.

    Among goals that cover equally many models it is the one of the norm that the grid names first, then of
    the largest radius, then of the most targets. Parts of a wider goal, transfers and stickers are excluded.

    Returns:
        One cell per model, in the order of the grid; empty if no such attack is done.
    """
    goals: dict[_GoalKey, dict[EvaluatedModel, CellResult]] = defaultdict(dict)
    for cell in _select_finished_cells(evidence):
        met = goals[_get_goal_key(cell)]
        known = met.get(cell.subject)
        if known is None or cell.attack_success.value > known.attack_success.value:
            met[cell.subject] = cell
    norms = list(dict.fromkeys(norm for norm, *_ in goals))
    ranked = sorted(
        goals, key=lambda goal: (-len(goals[goal]), norms.index(goal[0]), -goal[1], -len(goal[3]))
    )
    return list(goals[ranked[0]].values()) if ranked else []


def describe_main_goal(evidence: Evidence, max_models: int) -> str:
    """Describe the success of the main goal by model, the highest first; empty if no such attack is done.

    Args:
        evidence: The run.
        max_models: Models that are named; of more, the highest and the lowest.
    """
    cells = select_main_goal_cells(evidence)
    if not cells:
        return ""
    ranked = sorted(cells, key=lambda cell: -cell.attack_success.value)
    shown = ranked if len(cells) <= max_models else [ranked[0], ranked[-1]]
    parts = [
        f"{isolate_direction(str(cell.subject))}: {format_estimate(cell.attack_success)}"
        f"{_format_mark(evidence, cell)}"
        for cell in shown
    ]
    record = cells[0].record
    sources, targets = format_goal_classes(evidence, cells[0])
    goal = (
        f"Attack success under {format_budget(record.norm, record.eps)}, {sources} misclassified as {targets}"
    )
    more = len({_get_goal_key(cell) for cell in _select_finished_cells(evidence)}) - 1
    others = f" {_format_other_goals(more)} below." if more else ""
    basis = "of the correctly classified images"
    return (
        f"{goal}: {join_extremes(parts, len(cells))}, {basis}; stronger attacks can only raise this.{others}"
    )


def _format_mark(evidence: Evidence, cell: CellResult) -> str:
    mark = explain_mark(select_distrust(evidence, cell.subject, cell.threat))
    return f", {mark}" if mark else ""


def format_goal_classes(evidence: Evidence, cell: CellResult) -> tuple[str, str]:
    """Format the source classes and the target classes of a targeted cell in words."""
    model = cell.record.model
    sources = [isolate_direction(evidence.get_class_name(model, index)) for index in cell.record.sources]
    targets = [isolate_direction(evidence.get_class_name(model, index)) for index in cell.record.targets]
    several = f"one of {len(targets)} target classes"
    return join_in_sentence(sources) or "an image", targets[0] if len(targets) == 1 else several


def _select_finished_cells(evidence: Evidence) -> list[CellResult]:
    parts = find_goal_parts(evidence.cells)
    return [
        cell
        for cell in evidence.cells
        if cell.record.key not in parts
        and cell.is_done
        and cell.targeted
        and not (cell.has_external_candidates or cell.is_sticker)
        and cell.attack_success.is_known
    ]


def _get_goal_key(cell: CellResult) -> _GoalKey:
    return cell.record.norm, cell.record.eps, cell.record.sources, cell.record.targets


def _format_other_goals(count: int) -> str:
    verb = "follows" if count == 1 else "follow"
    return f"{format_count(count, 'other goal or radius', 'other goals and radii')} {verb}"
