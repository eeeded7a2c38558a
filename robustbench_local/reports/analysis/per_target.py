"""Each target alone and all of them together: what an attacker gets who wants this class, or any of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from robustbench_local.reports.analysis.evidence import CellResult, Evidence, Subject, Threat
from robustbench_local.reports.analysis.heatmap import NOT_IN_GRID, Square, standing_word
from robustbench_local.reports.analysis.misclassification_severity import Severity, severity_table, weigh
from robustbench_local.reports.analysis.pairwise import contrast
from robustbench_local.reports.formatting.text import listing
from robustbench_local.statistics import clopper_pearson

AS_ONE = "any of them, as one goal"
BEST = "any of them, the best attack on each image"
READING_GOALS = (
    "Each row is an attack with a goal of its own on the same images, among those that the model reads "
    "rightly untouched. An image that ends in a class that is not the row's target is no success: it is "
    "counted as read wrongly otherwise. In the last row an image counts as soon as one of the attacks above "
    "made it read as any of the targets."
)
"""How the table is read."""

_End = tuple[bool, tuple[int | None, int]]
"""Whether an attack reached its goal on an image; what the image is read as then, and its label."""


@dataclass(frozen=True, kw_only=True)
class GoalSquare(Square):
    """One goal against one model: the share of success, and what became of the images."""

    hits: int = 0
    """Images that reached the goal."""
    elsewhere: int = 0
    """Images that are read as another wrong class, or whose attack raised; no success."""
    held: int = 0
    """Images that are still read as their label."""


@dataclass(frozen=True, kw_only=True)
class GoalRow:
    """One goal against every model."""

    goal: str
    """Name of the target class, ``AS_ONE`` or ``BEST``."""
    severity: float | None
    """What reading the target costs; None for several targets, or where nothing is known about it."""
    squares: tuple[GoalSquare, ...]
    """One a model, in the order of the table."""


@dataclass(frozen=True, kw_only=True)
class GoalTable:
    """One attack that was given several targets, together and one by one."""

    attack: str
    """Name of the attack on all targets together."""
    threat: Threat
    """What the attacker may do."""
    sources: str
    """Names of the source classes, or ``all images``."""
    subjects: tuple[Subject, ...]
    """Models with their defenses, in the order of the grid."""
    rows: tuple[GoalRow, ...]
    """Each target, then all together, then the best attack on each image."""
    harms: tuple[Severity | None, ...]
    """For each model: the severity that an attacker reaches who picks the worst target for each image."""
    rule: str
    """Where the severities come from; empty if there are none."""
    comparisons: tuple[str, ...]
    """Models against each other, on the last row."""


def make_goal_tables(evidence: Evidence) -> list[GoalTable]:
    """One table for each attack that was given several targets and some of them alone."""
    return [_table(evidence, group) for group in _groups(evidence.cells)]


def parts_of_goals(cells: Sequence[CellResult]) -> frozenset[str]:
    """Keys of the cells that pursue one of the targets of a wider goal of the same attack."""
    return frozenset(
        cell.record.key for group in _groups(cells) for cell in group if len(cell.record.targets) == 1
    )


def _groups(cells: Sequence[CellResult]) -> list[list[CellResult]]:
    """Cells that differ in their targets only, where one is the goal and others are parts of it."""
    targeted = [cell for cell in cells if cell.targeted and not (cell.borrowed or cell.viewed)]
    keys = dict.fromkeys(map(_kind, targeted))
    alike = ([cell for cell in targeted if _kind(cell) == key] for key in keys)
    return [group for group in map(_goal_and_parts, alike) if group]


def _kind(cell: CellResult) -> tuple[str, Threat, str]:
    return cell.record.card, cell.threat, json.dumps(cell.record.parameters, sort_keys=True, default=str)


def _goal_and_parts(cells: Sequence[CellResult]) -> list[CellResult]:
    goal = _goal(cells)
    found = [cell for cell in cells if cell.record.targets == goal or _is_part(cell, goal)]
    return found if len({cell.record.targets for cell in found}) > 1 else []


def _goal(cells: Sequence[CellResult]) -> tuple[int, ...]:
    return max((cell.record.targets for cell in cells), key=len)


def _is_part(cell: CellResult, goal: tuple[int, ...]) -> bool:
    return len(cell.record.targets) == 1 and cell.record.targets[0] in goal


def _table(evidence: Evidence, cells: Sequence[CellResult]) -> GoalTable:
    goal = _goal(cells)
    record = next(cell.record for cell in cells if cell.record.targets == goal)
    costs = severity_table(evidence, record.model, record.sources)
    subjects = tuple(dict.fromkeys(cell.subject for cell in cells))
    tried = [[cell for cell in cells if cell.subject == one] for one in subjects]
    best = [_best(each) for each in tried]
    rows = []
    for targets in [*((target,) for target in goal), goal]:
        squares = tuple(_square(each, targets) for each in tried)
        name = AS_ONE if len(targets) > 1 else evidence.class_name(record.model, targets[0])
        cost = costs.costs.get(targets[0], 0.0) if costs and len(targets) == 1 else None
        rows.append(GoalRow(goal=name, severity=cost, squares=squares))
    union = tuple(map(_best_square, tried, best))
    names = [evidence.class_name(record.model, source) for source in record.sources]
    reached = {
        one: {image: any(broken for broken, _ in ends) for image, ends in found.items()}
        for one, found in zip(subjects, best, strict=True)
    }
    return GoalTable(
        attack=record.attack,
        threat=cells[0].threat,
        sources=listing(names) or "all images",
        subjects=subjects,
        rows=(*rows, GoalRow(goal=BEST, severity=None, squares=union)),
        harms=tuple(_harm(evidence, each, found) for each, found in zip(tried, best, strict=True)),
        rule=costs.rule if costs else "",
        comparisons=tuple(contrast(reached)),
    )


def _square(cells: Sequence[CellResult], targets: tuple[int, ...]) -> GoalSquare:
    """One goal against one model."""
    cell = next((cell for cell in cells if cell.record.targets == targets), None)
    if cell is None:
        return GoalSquare(estimate=clopper_pearson(0, 0), word="not run", reason=NOT_IN_GRID)
    return _counted(list(_ends([cell]).values()), standing_word(cell), cell.problem or "")


def _best(cells: Sequence[CellResult]) -> dict[str, list[_End]]:
    return _ends([cell for cell in cells if cell.done])


def _best_square(cells: Sequence[CellResult], found: Mapping[str, list[_End]]) -> GoalSquare:
    missing = [cell.record.attack for cell in cells if not cell.done]
    reason = f"without {listing(missing)}" if missing else ""
    return _counted(list(found.values()), "unknown", reason)


def _ends(cells: Sequence[CellResult]) -> dict[str, list[_End]]:
    """Image -> how it ended under each of the attacks, over the images that all of them tried."""
    first = cells[0].readings if cells else {}
    shared = [image for image in first if all(image in cell.readings for cell in cells)]
    return {
        image: [(cell.verdicts[image].broken, cell.readings[image]) for cell in cells] for image in shared
    }


def _counted(images: Sequence[list[_End]], word: str, reason: str) -> GoalSquare:
    """Count images by what the attacks came to."""
    hits = sum(any(broken for broken, _ in ends) for ends in images)
    held = sum(all(prediction == label for _, (prediction, label) in ends) for ends in images)
    return GoalSquare(
        estimate=clopper_pearson(hits, len(images)),
        word=word,
        reason=reason,
        hits=hits,
        elsewhere=len(images) - hits - held,
        held=held,
    )


def _harm(
    evidence: Evidence, cells: Sequence[CellResult], found: Mapping[str, list[_End]]
) -> Severity | None:
    """Severity where the attacker picks, for each image, the attack that does most harm."""
    record = cells[0].record
    costs = severity_table(evidence, record.model, record.sources)
    if costs is None or not found:
        return None
    readings = ([reading for _, reading in ends] for ends in found.values())
    return weigh(costs, [max(each, key=lambda reading: costs.of(*reading)) for each in readings])
