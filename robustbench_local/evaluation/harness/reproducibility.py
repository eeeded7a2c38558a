"""Whether answers that were given at work are given again, image by image.

The probe asks before the work, in few ways. A model that begins to remember only under attack shows here, and
one whose answers depend on the size of the batches that the work happens to have.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.state_guard import RandomStates, seed_everything
from robustbench_local.classifier.stochastic import RandomizedClassifier
from robustbench_local.classifier.wrapper import innermost
from robustbench_local.errors import ModelError

MOST_REREAD = 4
"""Candidates of a batch that both are asked about."""
LEAST_DISAGREEING = 2
"""So many of them that differ are no accident, where there are so many."""
MOST_DISAGREEING = 0.25
"""Share of them up to which differences may be rounding that the probe did not meet."""


@dataclass(frozen=True)
class SecondReadings:
    """How often both were asked about the same image, and how often they disagreed."""

    count: int = 0
    disagreeing: int = 0
    size_count: int = 0
    """Images that were asked about in batches of other sizes."""
    size_disagreeing: int = 0

    def __add__(self, other: SecondReadings) -> SecondReadings:
        return SecondReadings(
            self.count + other.count,
            self.disagreeing + other.disagreeing,
            self.size_count + other.size_count,
            self.size_disagreeing + other.size_disagreeing,
        )

    def require_agreement(self, name: str) -> None:
        """See that they agree on most.

        Args:
            name: What to call the model in messages.

        Raises:
            ModelError: If they do not.
        """
        if _are_too_many(self.size_disagreeing, self.size_count):
            raise ModelError(
                f"answers depend on the size of the batch: {self.size_disagreeing} of {self.size_count} "
                "images are answered otherwise in a batch of another size",
                where=name,
                remedy="let its forward treat each image by itself",
            )
        if _are_too_many(self.disagreeing, self.count):
            raise ModelError(
                f"remembers: after the attack it answers {self.disagreeing} of {self.count} images otherwise "
                "than a fresh copy",
                where=name,
                remedy="let its forward keep nothing: an attack on what remembers says nothing",
            )


def _are_too_many(disagreeing: int, count: int) -> bool:
    return disagreeing >= max(1, min(LEAST_DISAGREEING, count)) and disagreeing > MOST_DISAGREEING * count


def compare_sizes(
    fresh: Classifier, images: Tensor, labels: Tensor, margins: Tensor, sizes: Collection[int]
) -> SecondReadings:
    """Ask about a few images again, in batches of other sizes than they were read in.

    Args:
        fresh: A copy that was asked nothing but that first reading.
        images: (N, C, H, W) in [0, 1], as they were read, N at a time.
        labels: True classes, (N,).
        margins: What was answered, (N,): see `Reading`.
        sizes: Batches in which the work asks about images.

    Returns:
        What came of it; nothing for a service, or where answers are random or marked anyway.
    """
    known = fresh.consistency
    is_random = known.varies or known.draws or isinstance(fresh, RandomizedClassifier)
    if fresh.module is None or is_random or known.mark or not len(images):
        return SecondReadings()
    count = min(MOST_REREAD, len(images))
    expected, own = margins[:count].double().cpu(), labels[:count].cpu()
    before, unlike = RandomStates.current(), torch.zeros(count, dtype=torch.bool)
    for size in sorted({count, *sizes} - {len(images)}):
        batch = images[torch.arange(max(size, count)) % len(images)]
        answers = _answers(fresh, batch)[:count]
        unlike |= _differ(_margins(answers, own), expected, known.tolerance * _spread(answers))
    before.restore()
    return SecondReadings(size_count=count, size_disagreeing=int(unlike.sum()))


def read_twice(
    attacked: Classifier, fresh: Classifier, images: Tensor, labels: Tensor, margins: Tensor | None = None
) -> SecondReadings:
    """Ask the model that was attacked about a few images that a fresh copy has judged.

    Args:
        attacked: The classifier after the attack.
        fresh: The same over a fresh copy; nothing is asked if it is the same object.
        images: (N, C, H, W) in [0, 1], the candidates.
        labels: True classes, (N,).
        margins: What the fresh copy answered, (N,), in other company: see `Reading`. Where random numbers are
            drawn, the copy is asked again instead, with equal ones; what is around a model is left out then.

    Returns:
        What came of it; nothing where the model draws random numbers that no seed repeats, or is marked.
    """
    known = attacked.consistency
    if fresh is attacked or known.varies or known.mark or not len(images):
        return SecondReadings()
    chosen, own = images[:MOST_REREAD], labels[:MOST_REREAD].cpu()
    before = RandomStates.current()
    if margins is None or known.draws or isinstance(attacked, RandomizedClassifier):
        answers = _answers(innermost(attacked), chosen)
        expected = _margins(_answers(innermost(fresh), chosen), own)
    else:
        answers, expected = _answers(attacked, chosen), margins[:MOST_REREAD].double().cpu()
    before.restore()
    found = _margins(answers, own)
    unlike = _differ(found, expected, known.tolerance * _spread(answers))
    return SecondReadings(len(chosen), int(unlike.sum()))


def _differ(found: Tensor, expected: Tensor, tolerance: Tensor) -> Tensor:
    """Which margins, (N,), differ by more than rounding, (N,) boolean; NaN is like NaN alone."""
    return ((found - expected).abs() > tolerance) | (found.isnan() != expected.isnan())


def _margins(answers: Tensor, labels: Tensor) -> Tensor:
    """The label's logit minus the largest other one, (N,); NaN where a logit is not finite."""
    own = answers.gather(1, labels[:, None]).squeeze(1)
    others = answers.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    return (own - others).masked_fill(~answers.isfinite().all(dim=1), torch.nan)


def _answers(classifier: Classifier, images: Tensor) -> Tensor:
    """Answers, (N, K) double, which no open meter counts."""
    seed_everything(0)
    with torch.no_grad(), classifier.metered(len(images)):
        return classifier(images).double().cpu()


def _spread(answers: Tensor) -> Tensor:
    """The range of each image's logits, (N,)."""
    safe = answers.nan_to_num(0.0)
    return (safe.amax(dim=1) - safe.amin(dim=1)).clamp_min(1e-12)
