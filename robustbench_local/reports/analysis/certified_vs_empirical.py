"""What is proven and what attacks have left, for the same images: the truth lies between the two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from robustbench_local.reports.analysis.evidence import CellResult, Evidence, Subject, Threat
from robustbench_local.reports.analysis.worst_case import WorstCase
from robustbench_local.reports.formatting.text import counted, full, isolated, listing
from robustbench_local.statistics import Estimate, clopper_pearson

READING_BRACKETS = (
    "Of the same images, the share that is proven to be read rightly everywhere in the ball, and the share "
    "that no attack has broken. The robust accuracy lies between the two: a better certificate can only "
    "raise the first, a better attack can only lower the second."
)
"""How the table of brackets is read."""
MOST_IMAGES = 8
"""Images that a violation names."""


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """A subject under one threat: between proof and attack."""

    subject: Subject
    """The model and defense."""
    threat: Threat
    """The ball."""
    certificates: tuple[str, ...]
    """Those that were carried through; an image counts if any of them proves it."""
    attacks: tuple[str, ...]
    """Those that were carried through; an image counts if none of them breaks it."""
    verified: Estimate
    """Share of the images that are proven."""
    empirical: Estimate
    """Share of the same images that hold against every attack."""

    @property
    def undecided(self) -> int:
        """Images that are neither proven nor broken."""
        return self.empirical.count - self.verified.count

    @property
    def sentence(self) -> str:
        """The bracket in words."""
        who = f"{isolated(str(self.subject))} under {self.threat}"
        between = f"robust accuracy between {full(self.verified)}, proven, and {full(self.empirical)}"
        gap = f"{counted(self.undecided, 'image')} neither proven nor broken"
        return f"{who}: {between}, not broken by {listing(self.attacks)}; {gap}."


@dataclass(frozen=True, kw_only=True)
class Violation:
    """A proof and an adversarial image that contradict each other (diagnostic D25)."""

    certificate: CellResult
    """The cell that proved it."""
    attack: CellResult
    """The cell that broke it, inside the proven ball."""
    images: tuple[str, ...]
    """Ids of the images concerned."""

    @property
    def blocks(self) -> bool:
        """Whether one of the two has to be wrong: a proof that may err, by its own account, is only odd."""
        return self.certificate.record.alpha == 0

    @property
    def sentence(self) -> str:
        """What contradicts what, and where."""
        record = self.certificate.record
        more = len(self.images) - MOST_IMAGES
        named = [isolated(image) for image in self.images[:MOST_IMAGES]]
        images = listing([*named, f"{more:,} more"] if more > 0 else named)
        who = isolated(str(self.certificate.subject))
        what = f"{record.attack} proved {counted(len(self.images), 'image')} of {who} robust that"
        return f"{what} {isolated(self.attack.record.attack)} broke inside the proven ball: {images}."


def make_brackets(evidence: Evidence) -> list[Bracket]:
    """One for each subject and threat that has both a certificate and an attack, in the order of the grid."""
    brackets = []
    for worst in evidence.worst_cases:
        proofs = [cell for cell in evidence.cells if _about(cell, worst)]
        bracket = _bracket(worst, proofs)
        if bracket is not None:
            brackets.append(bracket)
    return brackets


def find_violations(evidence: Evidence) -> list[Violation]:
    """Every certificate and attack on the same subject that contradict each other."""
    proofs = [cell for cell in evidence.certificates if cell.record.concerns == "model"]
    return [violation for proof in proofs for violation in _violations(proof, evidence)]


def is_blocked(evidence: Evidence) -> bool:
    """Whether an attack broke what a certificate had proven: then no number of the run is to be trusted."""
    return any(violation.blocks for violation in find_violations(evidence))


def _about(cell: CellResult, worst: WorstCase) -> bool:
    """Whether a cell has proofs about the very classifier, images and ball that the attacks were on."""
    same = cell.subject == worst.subject and cell.threat == worst.threat
    return cell.certificate and cell.done and same and cell.record.concerns == "model"


def _bracket(worst: WorstCase, proofs: Sequence[CellResult]) -> Bracket | None:
    images = [image for image in worst.verdicts if all(image in cell.verdicts for cell in proofs)]
    if not (proofs and images):
        return None
    verified = sum(any(cell.verdicts[image].robust for cell in proofs) for image in images)
    empirical = sum(worst.verdicts[image].robust for image in images)
    return Bracket(
        subject=worst.subject,
        threat=worst.threat,
        certificates=tuple(cell.record.attack for cell in proofs),
        attacks=worst.attacks,
        verified=clopper_pearson(verified, len(images)),
        empirical=clopper_pearson(empirical, len(images)),
    )


def _violations(proof: CellResult, evidence: Evidence) -> Iterator[Violation]:
    for cell in evidence.cells:
        if cell.certificate or cell.subject != proof.subject:
            continue
        images = tuple(image for image in cell.breaks if _contradicts(proof, cell, image))
        if images:
            yield Violation(certificate=proof, attack=cell, images=images)


def _contradicts(proof: CellResult, attack: CellResult, image: str) -> bool:
    """Whether an image is proven to hold within a distance at which, or closer, it was broken."""
    radius = proof.proven.get(image, 0.0)
    if not radius:
        return False
    same_ball = attack.record.norm == proof.record.norm and attack.record.eps <= radius
    return same_ball or attack.breaks[image][proof.record.norm] <= radius
