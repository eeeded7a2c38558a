"""The base classes of training for randomized smoothing: noise, and accuracy under noise."""

from __future__ import annotations

import math
from abc import ABC
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from robustbench_local.defenses.recipes.base import Recipe, check_condition
from robustbench_local.defenses.recipes.training_objective import TrainingContext, TrainingObjective
from robustbench_local.randomness import derive_seed


@dataclass(frozen=True, kw_only=True)
class NoisyRecipe(Recipe):
    """Training for randomized smoothing.

    Attributes:
        sigma: Standard deviation of the noise in pixel units of [0, 1], added before any preprocessing and
            not clipped, as in the smoothed classifier.
    """

    sigma: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_condition(self.sigma > 0, "sigma must be positive")


def sample_noisy_images(images: Tensor, sigma: float, draws: int, generator: torch.Generator) -> Tensor:
    """Draw noisy copies of images, consecutive for each image: (N * draws, C, H, W), not clipped.

    Args:
        images: (N, C, H, W) in [0, 1].
        sigma: Standard deviation, in the same units.
        draws: Copies per image.
        generator: Random generator on the CPU.
    """
    repeated = images.repeat_interleave(draws, dim=0)
    return repeated + sigma * torch.randn(repeated.shape, generator=generator).to(images.device)


def compute_smoothed_likelihood(logits: Tensor, labels: Tensor, draws: int) -> Tensor:
    """Compute the log of the label's mean probability over the draws, (N,).

    The mean is inside the logarithm: the attacked classifier averages probabilities.

    Args:
        logits: (N * draws, K), the draws of an image one after the other.
        labels: (N,).
        draws: Noise samples per image.
    """
    likelihood = logits.log_softmax(dim=1).view(len(labels), draws, -1).logsumexp(dim=1) - math.log(draws)
    return likelihood.gather(1, labels[:, None]).squeeze(1)


RecipeType = TypeVar("RecipeType", bound=NoisyRecipe)


class NoisyObjective(TrainingObjective, ABC, Generic[RecipeType]):
    """An objective under noise; accuracy under noise selects the best epoch.

    Args:
        context: The training.
        recipe: Its hyperparameters.
    """

    robust_metric = "under noise"

    def __init__(self, context: TrainingContext, recipe: RecipeType) -> None:
        super().__init__(context)
        self.recipe = recipe

    def build_examples(self, module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        """Draw one noisy copy per image, the same in every epoch."""
        generator = torch.Generator().manual_seed(derive_seed(self.context.seed, "validation noise"))
        return sample_noisy_images(images, self.recipe.sigma, 1, generator)
