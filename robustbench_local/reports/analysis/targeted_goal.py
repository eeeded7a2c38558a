"""The goal that the answer of a run with targeted attacks is about, and what they came to on each model."""

from __future__ import annotations

from collections import defaultdict

from robustbench_local.reports.analysis.evidence import CellResult, Evidence, Subject
from robustbench_local.reports.analysis.per_target import parts_of_goals
from robustbench_local.reports.formatting.text import budget, counted, full, isolated, listing

_Goal = tuple[str, float, tuple[int, ...], tuple[int, ...]]
"""Norm, radius, source and target classes."""


def main_goal(evidence: Evidence) -> list[CellResult]:
    """The results under the goal that most models have met, the strongest attack on each model.

    Among goals that equally many models met it is the one of the norm that the grid names first, then of
    the largest radius, then of the most targets. Parts of a wider goal, transfers and stickers have no part
    in it.

    Returns:
        One cell a model, in the order of the grid; none if no such attack was carried through.
    """
    goals: dict[_Goal, dict[Subject, CellResult]] = defaultdict(dict)
    for cell in _finished(evidence):
        met = goals[_goal(cell)]
        known = met.get(cell.subject)
        if known is None or cell.attack_success.value > known.attack_success.value:
            met[cell.subject] = cell
    norms = list(dict.fromkeys(norm for norm, *_ in goals))
    ranked = sorted(goals, key=lambda one: (-len(goals[one]), norms.index(one[0]), -one[1], -len(one[3])))
    return list(goals[ranked[0]].values()) if ranked else []


def tell(evidence: Evidence, most: int) -> str:
    """What came of the main goal, model by model, and how much more the report has; empty if nothing did.

    Args:
        evidence: The run.
        most: So many models are named one by one; of more, the highest and the lowest.
    """
    cells = main_goal(evidence)
    if not cells:
        return ""
    ranked = sorted(cells, key=lambda cell: -cell.attack_success.value)
    shown = cells if len(cells) <= most else [ranked[0], ranked[-1]]
    parts = [f"{isolated(str(cell.subject))}: {full(cell.attack_success)}" for cell in shown]
    between = "" if shown is cells else f" (the highest and the lowest of {len(cells)})"
    record = cells[0].record
    sources, targets = aim(evidence, cells[0])
    goal = f"Under {budget(record.norm, record.eps)}, {sources} read as {targets}"
    more = len({_goal(cell) for cell in _finished(evidence)}) - 1
    others = f" {_others(more)} below." if more else ""
    basis = "of the images that are read correctly untouched"
    return f"{goal}: {'; '.join(parts)}{between}, {basis}; stronger attacks can only raise this.{others}"


def aim(evidence: Evidence, cell: CellResult) -> tuple[str, str]:
    """The classes that a targeted cell is about, and those it is to be read as, in words."""
    model = cell.record.model
    sources = [isolated(evidence.class_name(model, index)) for index in cell.record.sources]
    targets = [isolated(evidence.class_name(model, index)) for index in cell.record.targets]
    several = f"one of {len(targets)} target classes"
    return listing(sources) or "an image", targets[0] if len(targets) == 1 else several


def _finished(evidence: Evidence) -> list[CellResult]:
    parts = parts_of_goals(evidence.cells)
    return [
        cell
        for cell in evidence.cells
        if cell.record.key not in parts
        and cell.done
        and cell.targeted
        and not (cell.borrowed or cell.viewed)
        and cell.attack_success.known
    ]


def _goal(cell: CellResult) -> _Goal:
    return cell.record.norm, cell.record.eps, cell.record.sources, cell.record.targets


def _others(count: int) -> str:
    stands = "stands" if count == 1 else "stand"
    return f"{counted(count, 'other goal or radius', 'other goals and radii')} {stands}"
