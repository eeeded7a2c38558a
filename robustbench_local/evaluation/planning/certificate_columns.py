"""Certificates as columns of a grid, and the cells where they meet the models."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from robustbench_local.certification.base import Certificate
from robustbench_local.errors import RobustbenchError, ThreatError
from robustbench_local.evaluation.grid.schema import Grid
from robustbench_local.evaluation.planning.cells import GridColumn, build_cell_spec
from robustbench_local.evaluation.planning.plan import CertificateCell, EvaluationSubject
from robustbench_local.threats.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class CertificateColumn(GridColumn):
    """One certificate of the grid under one threat model."""

    certificate: Certificate
    """The certificate built from the card."""


def plan_certificate_cell(
    grid: Grid,
    subject: EvaluationSubject,
    column: CertificateColumn,
    run_identity: dict[str, str],
    position: int,
) -> CertificateCell:
    """The cell of a certificate and a model.

    Args:
        grid: The grid.
        subject: The model with its defense.
        column: The certificate.
        run_identity: What the cell's key is made of besides the model and the certificate.
        position: Order in the grid.

    Raises:
        ThreatError: If the certificate cannot answer the question for any model.
    """
    crossing, certificate = build_cell_spec(column, subject, grid.seed), column.certificate
    record = crossing.build_record(
        position,
        method_identity={"certificate": repr(certificate)},
        run_identity=run_identity,
        parameters=asdict(certificate),
        note=certificate.describe_caveats(),
        measure="certificate",
        concerns=certificate.get_concern(subject.classifier),
        alpha=certificate.error_probability,
    )
    return CertificateCell(
        record=record,
        subject=subject,
        certificate=certificate,
        threat=crossing.threat,
        positions=crossing.positions,
        skip_reason=_find_skip_reason(certificate, crossing.threat, subject, len(crossing.positions)),
    )


def _find_skip_reason(
    certificate: Certificate, threat: ThreatModel, subject: EvaluationSubject, count: int
) -> str | None:
    """Why there is no such certificate for this model; a question that makes no sense is raised instead."""
    if subject.problem:
        return None
    if not count:
        return "no image of the data is of a source class"
    try:
        certificate.check_support(threat, subject.classifier)
    except ThreatError:
        raise
    except RobustbenchError as problem:
        return str(problem)
    return None
