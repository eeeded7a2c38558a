"""Images whose robustness is not established although no attack broke them, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from robustbench_local.reports.analysis.evidence import CellResult, EvaluatedModel, Evidence, Threat


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """Images of a subject under one threat for which "not broken" does not mean "robust"."""

    subject: EvaluatedModel
    """The model and defense."""
    threat: Threat
    """What the attacker may do."""
    images: frozenset[str]
    """Ids of the images."""
    reason: str
    """Why, in one line: a sentence with its figures and without its full stop."""
    hint: str = ""
    """What would settle it, in one line without a full stop; empty if nothing simple would."""
    concerns_clean_answers: bool = False
    """Whether the model's answers themselves are in doubt, on clean images as well as on adversarial ones:
    then the images may turn out correctly classified as well as misclassified, transferred attacks and
    certificates say as little, and no gate on the model is decided by them."""


def list_threats(evidence: Evidence, subject: EvaluatedModel) -> tuple[Threat, ...]:
    """Everything a subject was put through, targeted goals, corruptions and certificates included."""
    return tuple(dict.fromkeys(cell.threat for cell in evidence.cells if cell.subject == subject))


def doubt_answers(
    evidence: Evidence, subject: EvaluatedModel, reason: str, hint: str = ""
) -> Iterator[Doubt]:
    """Doubts about every image of a subject under every threat, because its answers cannot be relied on.

    Args:
        evidence: The run.
        subject: The model and defense whose answers are in doubt.
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
    """The doubts that bear on these cells of one subject.

    An attack that was made on another model, or without the defense, says what it says whatever is wrong
    with the gradients of this one; so does a certificate. Only doubts about the answers themselves bear on
    them.
    """
    places = {(cell.subject, cell.threat) for cell in cells}
    own = any(
        not (cell.has_external_candidates or cell.is_certificate or cell.is_corruption) for cell in cells
    )
    return [
        one for one in doubts if (one.subject, one.threat) in places and (own or one.concerns_clean_answers)
    ]
