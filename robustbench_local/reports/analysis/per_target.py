"""Attack success for each target alone and for all targets together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from robustbench_local.cluster_statistics import Groups, estimate_image_share
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.heatmap import NOT_IN_GRID_REASON, HeatMapEntry, format_status
from robustbench_local.reports.analysis.misclassification_severity import (
    SeveritySummary,
    compute_image_severity,
    find_severity_table,
)
from robustbench_local.reports.analysis.pairwise import describe_success_comparisons
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.reports.analysis.trust import mark_model
from robustbench_local.reports.formatting.text import join_in_sentence
from robustbench_local.statistics import compute_clopper_pearson

ALL_TARGETS_LABEL = "any of them, as one goal"
BEST_ATTACK_LABEL = "any of them, the best attack on each image"
GOALS_EXPLANATION = (
    "Each row is an attack with its own target on the same correctly classified images. An image that is "
    "misclassified as a class other than the row's target is no success: it counts as another wrong "
    "class. In "
    "the last row an image counts as soon as one of the attacks above reaches any of the targets."
)
"""How to read the table."""

_GoalOutcome = tuple[bool, tuple[int | None, int]]
"""Whether an attack reached its goal on an image, and (final prediction, label)."""


@dataclass(frozen=True, kw_only=True)
class GoalEntry(HeatMapEntry):
    """One goal against one model: attack success, and the counts behind it."""

    success_count: int = 0
    """Images that reached the goal."""
    other_class_count: int = 0
    """Images misclassified as no target, or whose attack raised; no successes."""
    robust_count: int = 0
    """Images still classified as their label."""


@dataclass(frozen=True, kw_only=True)
class GoalRow:
    """One goal against every model."""

    goal_name: str
    """Name of the target class, ``ALL_TARGETS_LABEL`` or ``BEST_ATTACK_LABEL``."""
    severity: float | None
    """Severity of the target; None for several targets, or if unknown."""
    entries: tuple[GoalEntry, ...]
    """One per model, in the order of the table."""


@dataclass(frozen=True, kw_only=True)
class GoalTable:
    """One attack on several targets, together and one by one."""

    attack: str
    """Identifier of the attack on all targets together."""
    label: str
    """Label in tables."""
    threat: Threat
    """The threat model."""
    source_names: str
    """Names of the source classes, or ``all images``."""
    subjects: tuple[EvaluatedModel, ...]
    """Models with their defenses, in the order of the grid."""
    rows: tuple[GoalRow, ...]
    """Each target, then all together, then the best attack on each image."""
    worst_case_severities: tuple[SeveritySummary | None, ...]
    """Severity per model for an attacker who picks the worst target for each image."""
    severity_rule: str
    """Source of the severities; empty if there are none."""
    comparisons: tuple[str, ...]
    """Comparisons of models on the last row, one sentence each."""


@collect_once
def build_goal_tables(evidence: Evidence) -> list[GoalTable]:
    """Build one table per attack on several targets that was also run on some of them alone."""
    return [_build_table(evidence, group) for group in _group_goal_cells(evidence.cells)]


def find_goal_parts(cells: Sequence[CellResult]) -> frozenset[str]:
    """Find keys of cells whose targets are part of a wider goal of the same attack."""
    return frozenset(
        cell.record.key
        for group in _group_goal_cells(cells)
        for cell in group
        if len(cell.record.targets) == 1
    )


def _group_goal_cells(cells: Sequence[CellResult]) -> list[list[CellResult]]:
    """Group cells that differ only in their targets, where one is the goal and others are its parts."""
    targeted = [
        cell for cell in cells if cell.targeted and not (cell.has_external_candidates or cell.is_sticker)
    ]
    keys = dict.fromkeys(map(_get_attack_key, targeted))
    alike = ([cell for cell in targeted if _get_attack_key(cell) == key] for key in keys)
    return [group for group in map(_select_goal_and_parts, alike) if group]


def _get_attack_key(cell: CellResult) -> tuple[str, Threat, str]:
    return cell.record.card, cell.threat, json.dumps(cell.record.parameters, sort_keys=True, default=str)


def _select_goal_and_parts(cells: Sequence[CellResult]) -> list[CellResult]:
    goal = _find_full_goal(cells)
    found = [cell for cell in cells if cell.record.targets == goal or _is_part(cell, goal)]
    return found if len({cell.record.targets for cell in found}) > 1 else []


def _find_full_goal(cells: Sequence[CellResult]) -> tuple[int, ...]:
    return max((cell.record.targets for cell in cells), key=len)


def _is_part(cell: CellResult, goal: tuple[int, ...]) -> bool:
    return len(cell.record.targets) == 1 and cell.record.targets[0] in goal


def _build_table(evidence: Evidence, cells: Sequence[CellResult]) -> GoalTable:
    goal = _find_full_goal(cells)
    whole = next(cell for cell in cells if cell.record.targets == goal)
    record = whole.record
    costs = find_severity_table(evidence, record.model, record.sources)
    subjects = tuple(dict.fromkeys(cell.subject for cell in cells))
    tried = [[cell for cell in cells if cell.subject == one] for one in subjects]
    best = [_collect_best_outcomes(each) for each in tried]
    marks = [mark_model(evidence, one, cells[0].threat) for one in subjects]
    rows = []
    for targets in [*((target,) for target in goal), goal]:
        squares = tuple(
            replace(_build_entry(each, targets), mark=mark) for each, mark in zip(tried, marks, strict=True)
        )
        name = ALL_TARGETS_LABEL if len(targets) > 1 else evidence.get_class_name(record.model, targets[0])
        cost = costs.severity_by_class.get(targets[0], 0.0) if costs and len(targets) == 1 else None
        rows.append(GoalRow(goal_name=name, severity=cost, entries=squares))
    union = tuple(
        replace(_build_best_entry(each, found), mark=mark)
        for each, found, mark in zip(tried, best, marks, strict=True)
    )
    names = [evidence.get_class_name(record.model, source) for source in record.sources]
    reached = {
        one: {image: any(broken for broken, _ in ends) for image, ends in found.items()}
        for one, found in zip(subjects, best, strict=True)
    }
    return GoalTable(
        attack=record.attack,
        label=whole.label,
        threat=cells[0].threat,
        source_names=join_in_sentence(names) or "all images",
        subjects=subjects,
        rows=(*rows, GoalRow(goal_name=BEST_ATTACK_LABEL, severity=None, entries=union)),
        worst_case_severities=tuple(
            _compute_worst_case_severity(evidence, each, found)
            for each, found in zip(tried, best, strict=True)
        ),
        severity_rule=costs.rule if costs else "",
        comparisons=tuple(describe_success_comparisons(reached, evidence.groups)),
    )


def _build_entry(cells: Sequence[CellResult], targets: tuple[int, ...]) -> GoalEntry:
    """Build the entry of one goal against one model."""
    cell = next((cell for cell in cells if cell.record.targets == targets), None)
    if cell is None:
        return GoalEntry(
            estimate=compute_clopper_pearson(0, 0), status_text="not run", reason=NOT_IN_GRID_REASON
        )
    return _count_outcomes(
        _collect_outcomes([cell]), cell.groups, word=format_status(cell), reason=cell.problem or ""
    )


def _collect_best_outcomes(cells: Sequence[CellResult]) -> dict[str, list[_GoalOutcome]]:
    return _collect_outcomes([cell for cell in cells if cell.is_done])


def _build_best_entry(cells: Sequence[CellResult], outcomes: Mapping[str, list[_GoalOutcome]]) -> GoalEntry:
    missing = [cell.label for cell in cells if not cell.is_done]
    reason = f"without {join_in_sentence(missing)}" if missing else ""
    return _count_outcomes(outcomes, cells[0].groups if cells else {}, word="unknown", reason=reason)


def _collect_outcomes(cells: Sequence[CellResult]) -> dict[str, list[_GoalOutcome]]:
    """Collect the outcomes of each image under each attack, over the images common to all."""
    first = cells[0].final_predictions if cells else {}
    shared = [image for image in first if all(image in cell.final_predictions for cell in cells)]
    return {
        image: [(cell.verdicts[image].broken, cell.final_predictions[image]) for cell in cells]
        for image in shared
    }


def _count_outcomes(
    outcomes: Mapping[str, list[_GoalOutcome]], groups: Groups, *, word: str, reason: str
) -> GoalEntry:
    """Count images by outcome of the attacks."""
    marks = {image: any(broken for broken, _ in ends) for image, ends in outcomes.items()}
    hits = sum(marks.values())
    robust_count = sum(
        all(prediction == label for _, (prediction, label) in ends) for ends in outcomes.values()
    )
    return GoalEntry(
        estimate=estimate_image_share(marks, groups),
        status_text=word,
        reason=reason,
        success_count=hits,
        other_class_count=len(outcomes) - hits - robust_count,
        robust_count=robust_count,
    )


def _compute_worst_case_severity(
    evidence: Evidence, cells: Sequence[CellResult], outcomes: Mapping[str, list[_GoalOutcome]]
) -> SeveritySummary | None:
    """Compute the severity if the attacker picks the most harmful attack for each image."""
    record = cells[0].record
    costs = find_severity_table(evidence, record.model, record.sources)
    if costs is None or not outcomes:
        return None
    worst = {
        image: max((reading for _, reading in ends), key=lambda reading: costs.get_severity(*reading))
        for image, ends in outcomes.items()
    }
    return compute_image_severity(costs, worst, cells[0].groups)
