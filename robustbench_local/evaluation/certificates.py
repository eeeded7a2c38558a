"""Certificates as columns of a grid, and the cells where they meet the models."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import cast

from robustbench_local.catalogue import Card, CardThreat
from robustbench_local.certification.base import Certificate
from robustbench_local.data.labels import resolve_classes
from robustbench_local.errors import RobustbenchError, ThreatError
from robustbench_local.evaluation.cell import applicable
from robustbench_local.evaluation.grid import Grid
from robustbench_local.evaluation.plan import CertificateCell, Subject, cell_key, limited
from robustbench_local.store.records import CellRecord
from robustbench_local.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class CertificateColumn:
    """One certificate of the grid under one threat model."""

    card: Card
    """The card with its overrides."""
    certificate: Certificate
    """The certificate built from it."""
    limit: int | None
    """Most images it gets; None: all."""
    models: tuple[str, ...] | None
    """Ids of the models that get it; None: all."""

    @property
    def name(self) -> str:
        """The card's name."""
        return self.card.name

    @property
    def rules(self) -> CardThreat:
        """The threat model, its classes still names."""
        return cast("CardThreat", self.card.threat)  # a certificate's card always has one


def plan_certificate(
    grid: Grid, subject: Subject, column: CertificateColumn, given: dict[str, str], position: int
) -> CertificateCell:
    """The cell of a certificate and a model.

    Args:
        grid: The grid.
        subject: The model with its defense.
        column: The certificate.
        given: What the cell's key is made of besides the model and the certificate.
        position: Order in the grid.

    Raises:
        ThreatError: If the certificate cannot answer the question for any model.
    """
    certificate, names = column.certificate, subject.data.class_names
    sources = resolve_classes(column.rules.sources, names)
    threat = column.rules.model(resolve_classes(column.rules.targets, names))
    everyone = applicable(subject.data, threat, sources)
    positions = limited(subject.data, everyone, column.limit, grid.seed)
    what = {
        "certificate": repr(certificate),
        "threat": repr(threat),
        "sources": str(sources),
        "limit": str(column.limit),
    }
    identity = {"model": subject.digest, **given, **what}
    record = CellRecord(
        key=cell_key({**identity, "id": subject.id, "name": column.name}),
        position=position,
        model=subject.id,
        defense=subject.defense,
        attack=column.name,
        card=column.card.base,
        norm=threat.norm,
        eps=threat.eps,
        threat=threat.name,
        goal=threat.goal,
        targets=threat.targets,
        sources=sources,
        images=len(positions),
        excluded=len(subject.data) - len(everyone),
        parameters={"method": column.card.method, **asdict(certificate)},
        identity=identity,
        note=certificate.note(),
        measure="certificate",
        concerns=certificate.concerns(subject.classifier),
        alpha=certificate.error,
    )
    return CertificateCell(
        record=record,
        subject=subject,
        certificate=certificate,
        threat=threat,
        positions=positions,
        skipped=_reason_to_skip(certificate, threat, subject, len(positions)),
    )


def _reason_to_skip(
    certificate: Certificate, threat: ThreatModel, subject: Subject, count: int
) -> str | None:
    """Why there is no such certificate for this model; a question that makes no sense is raised instead."""
    if not count:
        return "no image of the data is of a source class"
    try:
        certificate.check(threat, subject.classifier)
    except ThreatError:
        raise
    except RobustbenchError as problem:
        return str(problem)
    return None
