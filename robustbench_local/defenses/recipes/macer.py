"""MACER: training that maximizes the certified radius of the smoothed classifier without an attack."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_local.defenses.recipes.base import check_condition
from robustbench_local.defenses.recipes.noise_base import (
    NoisyObjective,
    NoisyRecipe,
    compute_smoothed_likelihood,
    sample_noisy_images,
)
from robustbench_local.defenses.recipes.training_objective import (
    TrainingBatch,
    TrainingContext,
    TrainingObjective,
)


@dataclass(frozen=True, kw_only=True)
class MACER(NoisyRecipe):
    """Classification loss of the smoothed classifier, and a hinge on the radius of correct predictions.

    Attributes:
        draws: Noise samples per image, k.
        radius_weight: Weight of the hinge, lambda.
        hinge: gamma; radii count up to gamma sigma / 2.
        sharpness: beta, the inverse temperature of the softmax that approximates the vote.

    Source: Zhai et al. 2020, "MACER: attack-free and scalable robust training via maximizing certified
    radius", arXiv:2001.02378, algorithm 1 and sec. 5.1 (k 16, lambda 12, gamma 8, beta 16 at sigma 0.25).
    """

    method = "macer"

    draws: int
    radius_weight: float
    hinge: float
    sharpness: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_condition(self.draws >= 1, "draws must be at least 1")
        check_condition(self.radius_weight >= 0, "radius_weight must not be negative")
        check_condition(self.hinge > 0 and self.sharpness > 0, "hinge and sharpness must be positive")

    def build_objective(self, context: TrainingContext) -> TrainingObjective:
        """Build the cross-entropy of the mean probabilities, and the hinge."""
        return _MACERObjective(context, self)


def compute_radius_loss(
    logits: Tensor, labels: Tensor, *, draws: int, hinge: float, sharpness: float
) -> Tensor:
    """Compute max(0, gamma - xi) if the smoothed classifier is correct, otherwise 0; (N,).

    xi is the difference of the normal quantiles of the label's and of the runner-up's mean probability: the
    certified radius is sigma / 2 times xi. For xi of at least gamma the loss is 0.

    Args:
        logits: (N * draws, K), the draws of an image one after the other.
        labels: (N,).
        draws: Noise samples per image.
        hinge: gamma.
        sharpness: beta.
    """
    votes = (sharpness * logits).softmax(dim=1).view(len(labels), draws, -1).mean(dim=1)
    own = votes.gather(1, labels[:, None]).squeeze(1)
    other = votes.scatter(1, labels[:, None], -1.0).amax(dim=1)
    # At 0 and 1 the quantile is infinite and its gradient NaN; such images are beyond the hinge.
    sure = torch.finfo(votes.dtype).eps
    inner = (own > other) & (own < 1 - sure) & (other > sure)
    half = torch.full_like(own, 0.5)
    quantile = torch.special.ndtri
    gap = quantile(torch.where(inner, own, half)) - quantile(torch.where(inner, other, half))
    return torch.where(inner, (hinge - gap).clamp_min(0), 0.0)


class _MACERObjective(NoisyObjective[MACER]):
    def compute_loss(self, batch: TrainingBatch) -> Tensor:
        recipe = self.recipe
        logits = self.context.module(
            sample_noisy_images(batch.images, recipe.sigma, recipe.draws, batch.generator)
        ).float()
        classification = -compute_smoothed_likelihood(logits, batch.labels, recipe.draws)
        radius = compute_radius_loss(
            logits, batch.labels, draws=recipe.draws, hinge=recipe.hinge, sharpness=recipe.sharpness
        )
        return classification.mean() + recipe.radius_weight * recipe.sigma / 2 * radius.mean()
