"""The columns of a grid, and the cells where they meet the models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from torch import Tensor

from robustbench_local.attacks import make_attack
from robustbench_local.attacks.base import Attack
from robustbench_local.catalogue import Card, CardThreat
from robustbench_local.data.choose import choose_images
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.labels import resolve_classes
from robustbench_local.errors import ConfigError, RobustbenchError
from robustbench_local.evaluation.cards import find_attacks
from robustbench_local.evaluation.cell import applicable
from robustbench_local.evaluation.grid import Grid
from robustbench_local.evaluation.plan import PlannedCell, Subject, cell_key
from robustbench_local.store.records import CellRecord
from robustbench_local.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class Column:
    """One attack of the grid under one threat model."""

    card: Card
    """The card with its overrides."""
    attack: Attack
    """The attack built from it."""
    limit: int | None
    """Most images it gets; None: all that the goal applies to."""

    @property
    def rules(self) -> CardThreat:
        """The threat model, its classes still names."""
        return cast("CardThreat", self.card.threat)  # an attack's card always has one


def resolve_columns(grid: Grid, folders: Sequence[Path]) -> list[Column]:
    """Every attack of the grid with its overrides applied, in order.

    Args:
        grid: The grid.
        folders: Folders with the user's own cards.

    Raises:
        CardError: If a card is unknown or malformed.
        ConfigError: If an override is wrong, or two entries mean the same cell.
    """
    found: list[Column] = []
    for entry in grid.attacks:
        for card in find_attacks(entry.card, entry.overrides, folders):
            if card.name in {column.card.name for column in found}:
                raise ConfigError(f"the attack {card.name!r} is listed twice", where="attacks")
            attack = make_attack(card.method, card.parameters)
            found.append(Column(card=card, attack=attack, limit=entry.limit))
    return found


def plan_cells(
    grid: Grid, subjects: Sequence[Subject], columns: Sequence[Column], code: str
) -> Iterator[PlannedCell]:
    """Every square of the grid, in its order.

    Args:
        grid: The grid.
        subjects: The loaded models.
        columns: The attacks.
        code: Version of the code that decides verdicts.

    Raises:
        RobustbenchError: If an attack could not run on any model like this one.
    """
    position = 0
    for subject in subjects:
        given = {"data": subject.data.digest(), "seed": str(grid.seed), "code": code}
        for defense in grid.defenses:
            for column in columns:
                yield _plan_cell(grid, subject, column, given | {"defense": defense}, position)
                position += 1


def _plan_cell(
    grid: Grid, subject: Subject, column: Column, given: dict[str, str], position: int
) -> PlannedCell:
    card, attack, names = column.card, column.attack, subject.data.class_names
    sources = resolve_classes(column.rules.sources, names)
    threat = column.rules.model(resolve_classes(column.rules.targets, names))
    everyone = applicable(subject.data, threat, sources)
    positions = _limited(subject.data, everyone, column.limit, grid.seed)
    what = {
        "attack": repr(attack),
        "threat": repr(threat),
        "sources": str(sources),
        "limit": str(column.limit),
    }
    identity = {"model": subject.digest, **given, **what}
    record = CellRecord(
        key=cell_key({**identity, "id": subject.id, "name": card.name}),
        position=position,
        model=subject.id,
        defense=given["defense"],
        attack=card.name,
        card=card.base,
        norm=threat.norm,
        eps=threat.eps,
        threat=threat.name,
        goal=threat.goal,
        targets=threat.targets,
        sources=sources,
        images=len(positions),
        excluded=len(subject.data) - len(everyone),
        parameters={"method": card.method, **asdict(attack)},
        identity=identity,
        note=attack.note(subject.classifier, threat),
        knowledge=attack.knowledge,
        measure=attack.measure,
    )
    skipped = _reason_to_skip(attack, threat, subject, len(positions))
    return PlannedCell(
        record=record, subject=subject, attack=attack, threat=threat, positions=positions, skipped=skipped
    )


def _limited(data: Dataset, positions: Tensor, limit: int | None, seed: int) -> Tensor:
    """As many of the positions as the column wants, evenly over the classes."""
    ids = [data.ids[position] for position in positions.tolist()]
    chosen = choose_images(ids, data.labels[positions].tolist(), limit=limit, seed=seed)
    return positions[chosen]


def _reason_to_skip(attack: Attack, threat: ThreatModel, subject: Subject, count: int) -> str | None:
    """Why a cell cannot run on this model; what is wrong whatever the model is raised instead."""
    if not count:
        return "no image of the data has this goal: none is of a source class outside the targets"
    if threat.region == "mask" and subject.data.masks is None:
        return "the threat is confined to a mask, and the data have none"
    try:
        attack.check(threat, subject.classifier)
    except RobustbenchError as problem:
        if subject.classifier.access == "gradients":
            raise
        return str(problem)
    return None
