"""Checks that a model repeats its answers after the attack and in batches of other sizes.

The probe compares a few answers before the work starts. The checks here also find a model that begins to
remember only under attack, and one whose answers depend on the batch sizes of the work.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.state_guard import RandomStates, seed_everything
from robustbench_local.classifier.stochastic import RandomizedClassifier
from robustbench_local.classifier.wrapper import find_innermost
from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import ModelError

MAX_COMPARED_IMAGES = 4
"""Maximum number of candidates per batch that both models are queried on."""
MIN_DISAGREEMENTS = 2
"""Number of disagreements that cannot be chance."""
MAX_DISAGREEMENT_SHARE = 0.25
"""Share of disagreements up to which they may be rounding that the probe did not meet."""


@dataclass(frozen=True)
class AgreementCounts:
    """Counts of images queried twice and of disagreements between the two answers."""

    compared: int = 0
    disagreements: int = 0
    size_compared: int = 0
    """Number of images queried in batches of other sizes."""
    size_disagreements: int = 0
    repeated: int = 0
    """Number of clean images queried before and after the attack of their batch."""
    repeated_disagreements: int = 0

    def __add__(self, other: AgreementCounts) -> AgreementCounts:
        return AgreementCounts(
            self.compared + other.compared,
            self.disagreements + other.disagreements,
            self.size_compared + other.size_compared,
            self.size_disagreements + other.size_disagreements,
            self.repeated + other.repeated,
            self.repeated_disagreements + other.repeated_disagreements,
        )

    def check_agreement(self, name: str) -> None:
        """Check that most answers agree.

        Args:
            name: Name of the model in messages.

        Raises:
            ModelError: If they do not.
        """
        if _has_too_many_disagreements(self.size_disagreements, self.size_compared):
            raise ModelError(
                f"answers depend on the size of the batch: {self.size_disagreements} of {self.size_compared} "
                "images are answered otherwise in a batch of another size",
                where=name,
                remedy="let its forward treat each image by itself",
            )
        if self.repeated_disagreements >= max(1, min(MIN_DISAGREEMENTS, self.repeated)):
            raise ModelError(
                f"remembers in a place that no copy resets, such as a file: {self.repeated_disagreements} of "
                f"{self.repeated} clean images are answered otherwise after the attack than before",
                where=name,
                remedy="let its forward keep nothing: an attack on what remembers says nothing",
            )
        if _has_too_many_disagreements(self.disagreements, self.compared):
            raise ModelError(
                f"remembers: after the attack it answers {self.disagreements} of "
                f"{format_count(self.compared, 'image')} "
                "otherwise than a fresh copy",
                where=name,
                remedy="let its forward keep nothing: an attack on what remembers says nothing",
            )


def _has_too_many_disagreements(disagreeing: int, count: int) -> bool:
    return (
        disagreeing >= max(1, min(MIN_DISAGREEMENTS, count)) and disagreeing > MAX_DISAGREEMENT_SHARE * count
    )


def compare_batch_sizes(
    fresh: Classifier, images: Tensor, labels: Tensor, margins: Tensor, sizes: Collection[int]
) -> AgreementCounts:
    """Query a few images again, in batches of other sizes than in the first query.

    Args:
        fresh: A copy whose only earlier query is the first one.
        images: (N, C, H, W) in [0, 1], queried N at a time before.
        labels: True classes, (N,).
        margins: The earlier margins, (N,): see `Predictions`.
        sizes: Batch sizes used in the work.

    Returns:
        The counts; zero for a service, or where answers are random or the model is already marked.
    """
    known = fresh.settings.consistency
    is_random = known.is_unrepeatable or known.is_random or isinstance(fresh, RandomizedClassifier)
    if fresh.module is None or is_random or known.inconsistency_note or not len(images):
        return AgreementCounts()
    count = min(MAX_COMPARED_IMAGES, len(images))
    expected, own = margins[:count].cpu().double(), labels[:count].cpu()
    before, unlike = RandomStates.from_process(), torch.zeros(count, dtype=torch.bool)
    for size in sorted({count, *sizes} - {len(images)}):
        batch = images[torch.arange(max(size, count)) % len(images)]
        answers = _predict_uncounted(fresh, batch)[:count]
        unlike |= _find_differing(
            _compute_margins(answers, own), expected, known.tolerance * _compute_logit_ranges(answers)
        )
    before.restore_states()
    return AgreementCounts(size_compared=count, size_disagreements=int(unlike.sum()))


def compare_clean_answers(
    judge: Classifier, images: Tensor, labels: Tensor, margins: Tensor
) -> AgreementCounts:
    """Query a few clean images again after the attack: a copy forgets all but what lies outside of it.

    One batch in which answers have changed is enough, because later batches meet the changed model only.

    Args:
        judge: A fresh copy of the classifier.
        images: (N, C, H, W) in [0, 1], the clean images.
        labels: True classes, (N,).
        margins: Their margins before the attack, (N,): see `Predictions`.

    Returns:
        The counts; zero for a service, or where answers are random or the model is already marked.
    """
    known = judge.settings.consistency
    is_random = known.is_unrepeatable or known.is_random or isinstance(judge, RandomizedClassifier)
    if judge.module is None or is_random or known.inconsistency_note or not len(images):
        return AgreementCounts()
    answers = _predict_uncounted(judge, images[:MAX_COMPARED_IMAGES])
    expected, own = margins[:MAX_COMPARED_IMAGES].cpu().double(), labels[:MAX_COMPARED_IMAGES].cpu()
    unlike = _find_differing(
        _compute_margins(answers, own), expected, known.tolerance * _compute_logit_ranges(answers)
    )
    return AgreementCounts(repeated=len(own), repeated_disagreements=int(unlike.sum()))


def compare_with_fresh_copy(
    attacked: Classifier, fresh: Classifier, images: Tensor, labels: Tensor, margins: Tensor | None = None
) -> AgreementCounts:
    """Query the attacked model on a few images that a fresh copy has already answered.

    Args:
        attacked: The classifier after the attack.
        fresh: A fresh copy of the same classifier; if it is the same object, nothing is queried.
        images: (N, C, H, W) in [0, 1], the candidates.
        labels: True classes, (N,).
        margins: The fresh copy's margins, (N,), in other batches: see `Predictions`. Where random numbers are
            drawn, the copy is queried again instead, with equal ones, and without its wrappers.

    Returns:
        The counts; zero where the model draws random numbers that no seed repeats, or is already marked.
    """
    known = attacked.settings.consistency
    if fresh is attacked or known.is_unrepeatable or known.inconsistency_note or not len(images):
        return AgreementCounts()
    chosen, own = images[:MAX_COMPARED_IMAGES], labels[:MAX_COMPARED_IMAGES].cpu()
    before = RandomStates.from_process()
    if margins is None or known.is_random or isinstance(attacked, RandomizedClassifier):
        answers = _predict_uncounted(find_innermost(attacked), chosen)
        expected = _compute_margins(_predict_uncounted(find_innermost(fresh), chosen), own)
    else:
        answers, expected = _predict_uncounted(attacked, chosen), margins[:MAX_COMPARED_IMAGES].cpu().double()
    before.restore_states()
    margins_after = _compute_margins(answers, own)
    unlike = _find_differing(margins_after, expected, known.tolerance * _compute_logit_ranges(answers))
    return AgreementCounts(len(chosen), int(unlike.sum()))


def _find_differing(margins: Tensor, expected: Tensor, tolerance: Tensor) -> Tensor:
    """Mark margins, (N,), that differ by more than rounding, (N,) boolean; NaN equals only NaN."""
    return ((margins - expected).abs() > tolerance) | (margins.isnan() != expected.isnan())


def _compute_margins(answers: Tensor, labels: Tensor) -> Tensor:
    """Return the label's logit minus the largest other one, (N,); NaN where a logit is not finite."""
    own = answers.gather(1, labels[:, None]).squeeze(1)
    others = answers.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    return (own - others).masked_fill(~answers.isfinite().all(dim=1), torch.nan)


def _predict_uncounted(classifier: Classifier, images: Tensor) -> Tensor:
    """Return the answers, (N, K) double, without counting the passes."""
    seed_everything(0)
    with torch.no_grad(), classifier.count_passes(len(images)):
        return classifier(images).cpu().double()


def _compute_logit_ranges(answers: Tensor) -> Tensor:
    """Return the range of each image's logits, (N,)."""
    safe = answers.nan_to_num(0.0)
    return (safe.amax(dim=1) - safe.amin(dim=1)).clamp_min(1e-12)
