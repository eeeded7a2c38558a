"""What is proven and what attacks have left, for the same images: the truth lies between the two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.evidence import CellResult, EvaluatedModel, Evidence, Threat
from robustbench_local.reports.analysis.worst_case import WorstCase
from robustbench_local.reports.formatting.text import (
    format_count,
    format_estimate,
    isolate_direction,
    join_in_sentence,
)
from robustbench_local.statistics import Estimate, compute_clopper_pearson

ACCURACY_BOUNDS_EXPLANATION = (
    "Certified accuracy, and robust accuracy in the worst case over attacks, on the same images. The true "
    "robust "
    "accuracy lies between the two: a better certificate can only raise the first, a stronger attack can "
    "only "
    "lower the second."
)
"""How the table of brackets is read."""
MAX_NAMED_IMAGES = 8
"""Images that a violation names."""


@dataclass(frozen=True, kw_only=True)
class RobustAccuracyBounds:
    """A subject under one threat: between proof and attack."""

    subject: EvaluatedModel
    """The model and defense."""
    threat: Threat
    """The ball."""
    certificates: tuple[str, ...]
    """Those that were carried through; an image counts if any of them proves it."""
    attacks: tuple[str, ...]
    """Those that were carried through; an image counts if none of them breaks it."""
    certificate_labels: tuple[str, ...]
    """What tables call the certificates."""
    attack_labels: tuple[str, ...]
    """What tables call the attacks."""
    certified_accuracy: Estimate
    """Share of the images that are proven."""
    empirical_accuracy: Estimate
    """Share of the same images that hold against every attack."""

    @property
    def undecided_count(self) -> int:
        """Images that are neither proven nor broken."""
        return self.empirical_accuracy.count - self.certified_accuracy.count

    @property
    def sentence(self) -> str:
        """The bracket in words."""
        who = f"{isolate_direction(str(self.subject))} under {self.threat}"
        between = (
            f"robust accuracy between {format_estimate(self.certified_accuracy)} (certified) and "
            f"{format_estimate(self.empirical_accuracy)}"
        )
        gap = f"{format_count(self.undecided_count, 'image')} undecided"
        return f"{who}: {between} (worst case over {join_in_sentence(self.attack_labels)}); {gap}."


@dataclass(frozen=True, kw_only=True)
class CertificateViolation:
    """A proof and an adversarial image that contradict each other (diagnostic D25)."""

    certificate_cell: CellResult
    """The cell that proved it."""
    attack_cell: CellResult
    """The cell that broke it, inside the proven ball."""
    images: tuple[str, ...]
    """Ids of the images concerned."""

    @property
    def is_blocking(self) -> bool:
        """Whether one of the two has to be wrong: a proof that may err, by its own account, is only odd."""
        return self.certificate_cell.record.alpha == 0

    @property
    def sentence(self) -> str:
        """What contradicts what, and where."""
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
    """One for each subject and threat that has both a certificate and an attack, in the order of the grid."""
    brackets = []
    for worst in evidence.worst_cases:
        proofs = [cell for cell in evidence.cells if _is_comparable_certificate(cell, worst)]
        bracket = _build_bounds(worst, proofs)
        if bracket is not None:
            brackets.append(bracket)
    return brackets


@collect_once
def find_violations(evidence: Evidence) -> list[CertificateViolation]:
    """Every certificate and attack on the same subject that contradict each other."""
    proofs = [cell for cell in evidence.certificate_cells if cell.record.concerns == "model"]
    return [violation for proof in proofs for violation in _find_cell_violations(proof, evidence)]


def has_blocking_violation(evidence: Evidence) -> bool:
    """Whether an attack broke what a certificate had proven: then no number of the run is to be trusted."""
    return any(violation.is_blocking for violation in find_violations(evidence))


def _is_comparable_certificate(cell: CellResult, worst: WorstCase) -> bool:
    """Whether a cell has proofs about the very classifier, images and ball that the attacks were on."""
    same = cell.subject == worst.subject and cell.threat == worst.threat
    return cell.is_certificate and cell.is_done and same and cell.record.concerns == "model"


def _build_bounds(worst: WorstCase, proofs: Sequence[CellResult]) -> RobustAccuracyBounds | None:
    images = [image for image in worst.verdicts if all(image in cell.verdicts for cell in proofs)]
    if not (proofs and images):
        return None
    verified = sum(any(cell.verdicts[image].robust for cell in proofs) for image in images)
    empirical = sum(worst.verdicts[image].robust for image in images)
    return RobustAccuracyBounds(
        subject=worst.subject,
        threat=worst.threat,
        certificates=tuple(cell.record.attack for cell in proofs),
        attacks=worst.attacks,
        certificate_labels=tuple(cell.label for cell in proofs),
        attack_labels=worst.attack_labels,
        certified_accuracy=compute_clopper_pearson(verified, len(images)),
        empirical_accuracy=compute_clopper_pearson(empirical, len(images)),
    )


def _find_cell_violations(proof: CellResult, evidence: Evidence) -> Iterator[CertificateViolation]:
    for cell in evidence.cells:
        if cell.is_certificate or cell.subject != proof.subject:
            continue
        images = tuple(image for image in cell.success_norms if _has_contradiction(proof, cell, image))
        if images:
            yield CertificateViolation(certificate_cell=proof, attack_cell=cell, images=images)


def _has_contradiction(proof: CellResult, attack: CellResult, image: str) -> bool:
    """Whether an image is proven to hold within a distance at which, or closer, it was broken."""
    radius = proof.certified_radii.get(image, 0.0)
    if not radius:
        return False
    same_ball = attack.record.norm == proof.record.norm and attack.record.eps <= radius
    return same_ball or attack.success_norms[image][proof.record.norm] <= radius
