"""Certified and empirical robust accuracy over the same images: bounds of the true robust accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from robustbench_local.cluster_statistics import estimate_image_share
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.reports.analysis.worst_case import WorstCase
from robustbench_local.reports.formatting.text import (
    format_count,
    format_estimate,
    isolate_direction,
    join_in_sentence,
)
from robustbench_local.statistics import Estimate

ACCURACY_BOUNDS_EXPLANATION = (
    "Certified accuracy, and robust accuracy in the worst case over attacks, on the same images. The true "
    "robust "
    "accuracy lies between the two: a better certificate can only raise the first, a stronger attack can "
    "only "
    "lower the second."
)
"""How to read the table."""
MAX_NAMED_IMAGES = 8
"""Maximum images that a violation names."""


@dataclass(frozen=True, kw_only=True)
class RobustAccuracyBounds:
    """Bounds of the robust accuracy of a subject under one threat model."""

    subject: EvaluatedModel
    """The model and defense."""
    threat: Threat
    """The ball."""
    certificates: tuple[str, ...]
    """Completed certificates; an image counts if any of them certifies it."""
    attacks: tuple[str, ...]
    """Completed attacks; an image counts if none of them succeeds."""
    certificate_labels: tuple[str, ...]
    """Labels of the certificates in tables."""
    attack_labels: tuple[str, ...]
    """Labels of the attacks in tables."""
    certified_accuracy: Estimate
    """Share of the images that are certified."""
    empirical_accuracy: Estimate
    """Share of the same images that are robust under every attack."""

    @property
    def undecided_count(self) -> int:
        """Images that are neither certified nor misclassified under attack."""
        return self.empirical_accuracy.count - self.certified_accuracy.count

    @property
    def sentence(self) -> str:
        """The bounds in words."""
        who = f"{isolate_direction(str(self.subject))} under {self.threat}"
        between = (
            f"robust accuracy between {format_estimate(self.certified_accuracy)} (certified) and "
            f"{format_estimate(self.empirical_accuracy)}"
        )
        gap = f"{format_count(self.undecided_count, 'image')} undecided"
        return f"{who}: {between} (worst case over {join_in_sentence(self.attack_labels)}); {gap}."


@dataclass(frozen=True, kw_only=True)
class CertificateViolation:
    """A certificate contradicted by an adversarial example (diagnostic D25)."""

    certificate_cell: CellResult
    """The cell of the certificate."""
    attack_cell: CellResult
    """The cell of the attack that succeeded inside the certified ball."""
    images: tuple[str, ...]
    """Ids of the images concerned."""

    @property
    def is_blocking(self) -> bool:
        """Whether one of the two must be wrong; a probabilistic certificate may err by chance."""
        return self.certificate_cell.record.alpha == 0

    @property
    def sentence(self) -> str:
        """The violation in words."""
        more = len(self.images) - MAX_NAMED_IMAGES
        named = [isolate_direction(image) for image in self.images[:MAX_NAMED_IMAGES]]
        images = join_in_sentence([*named, f"{more:,} more"] if more > 0 else named)
        who = isolate_direction(str(self.certificate_cell.subject))
        what = (
            f"{isolate_direction(self.certificate_cell.label)} certified "
            f"{format_count(len(self.images), 'image')} of {who} on which"
        )
        return (
            f"{what} {isolate_direction(self.attack_cell.label)} found adversarial examples inside the "
            f"certified ball: {images}."
        )


@collect_once
def build_accuracy_bounds(evidence: Evidence) -> list[RobustAccuracyBounds]:
    """Build bounds per subject and threat model with a certificate and an attack, in order of the grid."""
    brackets = []
    for worst in evidence.worst_cases:
        proofs = [cell for cell in evidence.cells if _is_comparable_certificate(cell, worst)]
        bracket = _build_bounds(worst, proofs)
        if bracket is not None:
            brackets.append(bracket)
    return brackets


@collect_once
def find_violations(evidence: Evidence) -> list[CertificateViolation]:
    """Find certificates and attacks on the same subject that contradict each other."""
    proofs = [cell for cell in evidence.certificate_cells if cell.record.concerns == "model"]
    return [violation for proof in proofs for violation in _find_cell_violations(proof, evidence)]


def has_blocking_violation(evidence: Evidence) -> bool:
    """Return whether an attack contradicts a certificate, so that no number of the run is reliable."""
    return any(violation.is_blocking for violation in find_violations(evidence))


def _is_comparable_certificate(cell: CellResult, worst: WorstCase) -> bool:
    """Return whether a certificate is about the classifier, images and ball of the attacks."""
    same = cell.subject == worst.subject and cell.threat == worst.threat
    return cell.is_certificate and cell.is_done and same and cell.record.concerns == "model"


def _build_bounds(worst: WorstCase, proofs: Sequence[CellResult]) -> RobustAccuracyBounds | None:
    images = [image for image in worst.verdicts if all(image in cell.verdicts for cell in proofs)]
    if not (proofs and images):
        return None
    verified = {image: any(cell.verdicts[image].robust for cell in proofs) for image in images}
    empirical = {image: worst.verdicts[image].robust for image in images}
    return RobustAccuracyBounds(
        subject=worst.subject,
        threat=worst.threat,
        certificates=tuple(cell.record.attack for cell in proofs),
        attacks=worst.attacks,
        certificate_labels=tuple(cell.label for cell in proofs),
        attack_labels=worst.attack_labels,
        certified_accuracy=estimate_image_share(verified, worst.groups),
        empirical_accuracy=estimate_image_share(empirical, worst.groups),
    )


def _find_cell_violations(proof: CellResult, evidence: Evidence) -> Iterator[CertificateViolation]:
    for cell in evidence.cells:
        if cell.is_certificate or cell.subject != proof.subject:
            continue
        images = tuple(image for image in cell.success_norms if _has_contradiction(proof, cell, image))
        if images:
            yield CertificateViolation(certificate_cell=proof, attack_cell=cell, images=images)


def _has_contradiction(proof: CellResult, attack: CellResult, image: str) -> bool:
    """Return whether an attack succeeded on an image within its certified radius."""
    radius = proof.certified_radii.get(image, 0.0)
    if not radius:
        return False
    same_ball = attack.record.norm == proof.record.norm and attack.record.eps <= radius
    return same_ball or attack.success_norms[image][proof.record.norm] <= radius
