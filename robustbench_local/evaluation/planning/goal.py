"""One attack goal for a whole grid: source classes and target classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from robustbench_local.evaluation.grid.card_lookup import find_method_cards
from robustbench_local.evaluation.grid.schema import AttackEntry, Grid
from robustbench_local.evaluation.planning.plan import CellSpec

ClassEntry = int | str


def override_goal(
    grid: Grid, sources: Sequence[ClassEntry], targets: Sequence[ClassEntry], folders: Sequence[Path] = ()
) -> Grid:
    """Set one goal for every attack of a grid, overriding the cards.

    Certificates and corruptions, which have no goal, are restricted to the source classes.

    Args:
        grid: The grid.
        sources: Only images of these classes, by name or index; empty keeps those of the cards.
        targets: Target classes of the attacker; empty keeps those of the cards.
        folders: Folders with the user's own cards.

    Raises:
        CardError: If a card is unknown.
        ConfigError: If an override of the grid is wrong.
    """
    if not (sources or targets):
        return grid
    entries = [_override_entry_goal(entry, list(sources), list(targets), folders) for entry in grid.attacks]
    return grid.model_copy(update={"attacks": entries})


def _override_entry_goal(
    entry: AttackEntry, sources: list[ClassEntry], targets: list[ClassEntry], folders: Sequence[Path]
) -> AttackEntry:
    card = find_method_cards(entry.card, entry.overrides, folders)[0]
    aimless = card.kind == "certificate" or (card.threat is not None and card.threat.norm == "corruption")
    goal: dict[str, Any] = {"sources": sources, "targets": [] if aimless else targets}
    changes = {key: classes for key, classes in goal.items() if classes}
    settings = entry.settings | ({"each_target": False} if len(targets) == 1 else {})
    return AttackEntry.model_validate({**settings, **entry.overrides, **changes})


def describe_goals(cells: Sequence[CellSpec]) -> Iterator[str]:
    """Describe the goals of a plan, each once, with names and numbers of the classes.

    A class number that is off by one is noticed when the name stands beside it. A goal that is part of a
    wider goal of the plan is not repeated.
    """
    goals = {(cell.subject.id, cell.record.sources, cell.record.targets): cell for cell in cells}
    wider = {
        (model, sources, targets)
        for model, sources, targets in goals
        if not any(
            other[:2] == (model, sources) and set(targets) < set(other[2]) for other in goals if targets
        )
    }
    descriptions = (_describe_goal(cell) for goal, cell in goals.items() if goal in wider and any(goal[1:]))
    yield from dict.fromkeys(descriptions)


def format_classes(cell: CellSpec, classes: Sequence[int]) -> list[str]:
    """Format the classes of a cell's model with their numbers: ``14 Stop``; ``class 14`` without names."""
    names = cell.subject.data.class_names
    return [
        f"class {index}" if names[index] == str(index) else f"{index} {names[index]}" for index in classes
    ]


def _describe_goal(cell: CellSpec) -> str:
    sources = ", ".join(format_classes(cell, cell.record.sources)) or "every other class"
    targets = format_classes(cell, cell.record.targets)
    if not targets:
        return f"only images of {sources}"
    return f"{sources} -> {'any of ' if len(targets) > 1 else ''}{', '.join(targets)}"
