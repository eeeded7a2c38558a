"""Gradient masking: attacks with less knowledge of the model succeed where white-box attacks fail."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from robustbench_local.cluster_statistics import estimate_image_share
from robustbench_local.reports.analysis.attempts import Attempt, index_attempts
from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.statistics import Estimate
from robustbench_local.store.outcome_limits import exceeds_chance


@dataclass(frozen=True, kw_only=True)
class MaskingEvidence:
    """Images on which only attacks with less knowledge than the white-box ones succeeded."""

    subject: EvaluatedModel
    """The model and defense."""
    threat: Threat
    """The threat model."""
    transferred: bool
    """Whether the candidates were crafted on another model, or on this one without its defense; else the
    attacks use scores or labels, stages of ensembles included."""
    attacks: tuple[str, ...]
    """The successful attacks."""
    missed_share: Estimate
    """Share of images on which only they succeeded, of the images completed by both kinds."""
    misled_attempts: tuple[Attempt, ...] = ()
    """The white-box attempts that missed them."""
    is_counted_by_adaptive: bool = False
    """Whether the adaptive attack ran on every image and succeeded on all of these: its number counts them,
    and no search that this package has is left to run."""

    @property
    def is_beyond_chance(self) -> bool:
        """Whether there are more such images than sound models show."""
        return exceeds_chance(self.missed_share.count, self.missed_share.n)


@collect_once
def find_gradient_masking(evidence: Evidence) -> Iterator[MaskingEvidence]:
    """Find models and threat models where black-box or transfer attacks beat white-box ones beyond chance."""
    return (found for found in compare_by_knowledge(evidence) if found.is_beyond_chance)


@collect_once
def compare_by_knowledge(evidence: Evidence) -> Iterator[MaskingEvidence]:
    """Compare black-box and transfer attacks with white-box ones wherever a run has both."""
    index = index_attempts(evidence)
    for subject in evidence.subjects:
        for threat in evidence.threats:
            met = index.get((subject, threat), ())
            white = [attempt for attempt in met if attempt.sees_gradients]
            for transferred in (False, True):
                black = [
                    attempt
                    for attempt in met
                    if not attempt.sees_gradients and attempt.cell.has_external_candidates == transferred
                ]
                if white and black:
                    yield _build_evidence(white, black)


def _select_strongest(white: Sequence[Attempt]) -> Sequence[Attempt]:
    """Select the attempts of which an image needs at least one: iterative ones if there are any.

    A single step misses much on sound models as well.
    """
    return [attempt for attempt in white if not attempt.is_single_step] or white


def _merge_images(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    return frozenset[str]().union(*sets)


def _build_evidence(white: Sequence[Attempt], black: Sequence[Attempt]) -> MaskingEvidence:
    strongest = _select_strongest(white)
    unbroken = _merge_images(attempt.completed_images for attempt in strongest) - _merge_images(
        attempt.broken_images for attempt in white
    )
    successes = {attempt.name: unbroken & attempt.broken_images for attempt in black}
    missed = _merge_images(successes.values())
    images = _merge_images(attempt.evaluated_images for attempt in strongest) & _merge_images(
        attempt.evaluated_images for attempt in black
    )
    adaptive = [attempt for attempt in (*white, *black) if attempt.method == "adaptive"]
    return MaskingEvidence(
        subject=white[0].cell.subject,
        threat=white[0].cell.threat,
        transferred=black[0].cell.has_external_candidates,
        attacks=tuple(attack for attack, found in successes.items() if found),
        missed_share=estimate_image_share({image: image in missed for image in images}, white[0].cell.groups),
        misled_attempts=tuple(white),
        is_counted_by_adaptive=images <= _merge_images(attempt.evaluated_images for attempt in adaptive)
        and missed <= _merge_images(attempt.broken_images for attempt in adaptive),
    )
