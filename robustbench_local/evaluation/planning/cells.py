"""Where a column of a grid meets a model: what any cell is made of, whether it attacks or proves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from robustbench_local.config.cards import Card, CardThreat
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.labels import resolve_classes
from robustbench_local.data.subsample import choose_images
from robustbench_local.evaluation.harness.attack_job import find_applicable_positions
from robustbench_local.evaluation.harness.cell_key import cell_key
from robustbench_local.evaluation.planning.plan import EvaluationSubject
from robustbench_local.store.records import CellRecord
from robustbench_local.threats.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class GridColumn:
    """One method of the grid under one threat model."""

    card: Card
    """The card with its overrides."""
    limit: int | None
    """Most images it gets; None: all that the goal applies to."""
    models: tuple[str, ...] | None
    """Ids of the models that get it; None: all."""
    entry_name: str | None = None
    """What the grid calls it in tables; None: what its card is called. Never part of an identity."""

    @property
    def name(self) -> str:
        """The card's name."""
        return self.card.name

    @property
    def card_threat(self) -> CardThreat:
        """The threat model, its classes still names."""
        return cast("CardThreat", self.card.threat)  # these cards always have one


@dataclass(frozen=True, kw_only=True)
class CellSpec:
    """A column and a model: the threat in the model's classes, and the images it is about."""

    column: GridColumn
    """The column."""
    subject: EvaluationSubject
    """The model with its defense."""
    threat: ThreatModel
    """Budget and goal."""
    sources: tuple[int, ...]
    """Only images of these classes belong here; empty: all."""
    positions: Tensor
    """The images, int64."""
    excluded: int
    """Images that the goal does not apply to."""

    def build_record(
        self,
        position: int,
        *,
        method_identity: Mapping[str, str],
        run_identity: Mapping[str, str],
        parameters: Mapping[str, Any],
        **extra_fields: Any,
    ) -> CellRecord:
        """The cell's record.

        Args:
            position: Order in the grid.
            method_identity: What the method is and how it works, part of the cell's identity.
            run_identity: What the identity is made of besides the model and the method.
            parameters: Of the method.
            extra_fields: Fields that only one kind of cell has.
        """
        column, subject, threat = self.column, self.subject, self.threat
        about = {"threat": repr(threat), "sources": str(self.sources), "limit": str(column.limit)}
        identity = {"model": subject.digest, **run_identity, **method_identity, **about}
        return CellRecord(
            key=cell_key({**identity, "id": subject.id, "name": column.name}),
            position=position,
            model=subject.id,
            defense=subject.defense,
            attack=column.name,
            card=column.card.base_name,
            norm=threat.norm,
            eps=threat.eps,
            threat=threat.name,
            goal=threat.goal,
            targets=threat.targets,
            sources=self.sources,
            images=len(self.positions),
            excluded=self.excluded,
            parameters={"method": column.card.method, **parameters},
            identity=identity,
            **extra_fields,
        )


def build_cell_spec(column: GridColumn, subject: EvaluationSubject, seed: int) -> CellSpec:
    """Bring a column and a model together.

    Args:
        column: The column.
        subject: The model with its defense.
        seed: Decides which images are left where the column has a limit.

    Raises:
        ConfigError: If the column names a class that the data do not have.
    """
    names = subject.data.class_names
    sources = resolve_classes(column.card_threat.sources, names)
    threat = column.card_threat.build_threat_model(resolve_classes(column.card_threat.targets, names))
    everyone = find_applicable_positions(subject.data, threat, sources)
    return CellSpec(
        column=column,
        subject=subject,
        threat=threat,
        sources=sources,
        positions=_limit_positions(subject.data, everyone, column.limit, seed),
        excluded=len(subject.data) - len(everyone),
    )


def _limit_positions(data: Dataset, positions: Tensor, limit: int | None, seed: int) -> Tensor:
    """As many of the positions as a column wants, evenly over the classes."""
    ids = [data.ids[position] for position in positions.tolist()]
    chosen = choose_images(ids, data.labels[positions].tolist(), limit=limit, seed=seed)
    return positions[chosen]
