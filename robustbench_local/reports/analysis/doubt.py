"""Doubts: images that are not shown to be robust although no attack succeeded, with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.threat import Threat


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """Images of a subject under one threat model for which failed attacks do not show robustness."""

    subject: EvaluatedModel
    """The model and defense."""
    threat: Threat
    """The threat model."""
    images: frozenset[str]
    """Ids of the images."""
    reason: str
    """The reason in one line: a sentence with its numbers and without its full stop."""
    hint: str = ""
    """How to resolve it, in one line without a full stop; empty if there is no simple way."""
    concerns_clean_answers: bool = False
    """Whether the model's outputs themselves are in doubt, on clean images as well as on adversarial ones.
    Then each image may be classified correctly or not, transfers and certificates are no evidence either,
    and gates on the model are inconclusive."""
    diagnostic: str = ""
    """Id of the diagnostic that reports the same fact; empty: the doubt is a finding of its own."""


def list_threats(evidence: Evidence, subject: EvaluatedModel) -> tuple[Threat, ...]:
    """List all threat models of a subject, targeted goals, corruptions and certificates included."""
    return tuple(dict.fromkeys(cell.threat for cell in evidence.cells if cell.subject == subject))


def doubt_answers(
    evidence: Evidence, subject: EvaluatedModel, reason: str, hint: str = ""
) -> Iterator[Doubt]:
    """Yield doubts about every image of a subject under every threat model: its outputs are unreliable.

    Args:
        evidence: The run.
        subject: The model and defense whose outputs are in doubt.
        reason: As in ``Doubt``.
        hint: As in ``Doubt``.
    """
    for threat in list_threats(evidence, subject):
        cells = [cell for cell in evidence.cells if (cell.subject, cell.threat) == (subject, threat)]
        images = frozenset(image for cell in cells for image in cell.verdicts)
        yield Doubt(
            subject=subject,
            threat=threat,
            images=images,
            reason=reason,
            hint=hint,
            concerns_clean_answers=True,
        )


def select_doubts(doubts: Iterable[Doubt], cells: Sequence[CellResult]) -> list[Doubt]:
    """Select the doubts that concern these cells of one subject.

    A transfer, an attack unaware of the defense and a certificate do not depend on the gradients of the
    model. Only doubts about the outputs themselves concern them.
    """
    places = {(cell.subject, cell.threat) for cell in cells}
    own = any(
        not (cell.has_external_candidates or cell.is_certificate or cell.is_corruption) for cell in cells
    )
    return [
        doubt
        for doubt in doubts
        if (doubt.subject, doubt.threat) in places and (own or doubt.concerns_clean_answers)
    ]
