"""Certificates as columns of a grid, and the cells where they meet the models."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from robustbench_local.certification.base import Certificate
from robustbench_local.errors import RobustbenchError, ThreatError
from robustbench_local.evaluation.grid.schema import Grid
from robustbench_local.evaluation.planning.cells import GridColumn, cross
from robustbench_local.evaluation.planning.plan import CertificateCell, Subject
from robustbench_local.threats.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class CertificateColumn(GridColumn):
    """One certificate of the grid under one threat model."""

    certificate: Certificate
    """The certificate built from the card."""


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
    crossing, certificate = cross(column, subject, grid.seed), column.certificate
    record = crossing.record(
        position,
        what={"certificate": repr(certificate)},
        given=given,
        parameters=asdict(certificate),
        note=certificate.note(),
        measure="certificate",
        concerns=certificate.concerns(subject.classifier),
        alpha=certificate.error,
    )
    return CertificateCell(
        record=record,
        subject=subject,
        certificate=certificate,
        threat=crossing.threat,
        positions=crossing.positions,
        skipped=_reason_to_skip(certificate, crossing.threat, subject, len(crossing.positions)),
    )


def _reason_to_skip(
    certificate: Certificate, threat: ThreatModel, subject: Subject, count: int
) -> str | None:
    """Why there is no such certificate for this model; a question that makes no sense is raised instead."""
    if subject.problem:
        return None
    if not count:
        return "no image of the data is of a source class"
    try:
        certificate.check(threat, subject.classifier)
    except ThreatError:
        raise
    except RobustbenchError as problem:
        return str(problem)
    return None
