"""Gaussian augmentation: noise on every training image, for a classifier that will be smoothed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from robustbench_local.defenses.recipes.noise_base import NoisyObjective, NoisyRecipe, sample_noisy_images
from robustbench_local.defenses.recipes.training_objective import (
    TrainingBatch,
    TrainingContext,
    TrainingObjective,
)


@dataclass(frozen=True, kw_only=True)
class GaussianAugmentation(NoisyRecipe):
    """Cross-entropy on images with Gaussian noise.

    Source: Cohen et al. 2019, "Certified adversarial robustness via randomized smoothing", arXiv:1902.02918,
    sec. 3.3.
    """

    method = "gaussian"

    def build_objective(self, context: TrainingContext) -> TrainingObjective:
        """Build cross-entropy on noisy images."""
        return _GaussianObjective(context, self)


class _GaussianObjective(NoisyObjective[GaussianAugmentation]):
    def compute_loss(self, batch: TrainingBatch) -> Tensor:
        logits = self.context.module(sample_noisy_images(batch.images, self.recipe.sigma, 1, batch.generator))
        return nn.functional.cross_entropy(logits, batch.labels, label_smoothing=self.recipe.label_smoothing)
