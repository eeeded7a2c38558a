"""MART: adversarial training with a larger weight on images that are misclassified without an attack."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_local.defenses.recipes.adversarial_base import AdversarialObjective, AdversarialRecipe
from robustbench_local.defenses.recipes.base import check_condition
from robustbench_local.defenses.recipes.training_objective import (
    TrainingBatch,
    TrainingContext,
    TrainingObjective,
)
from robustbench_local.defenses.recipes.training_pgd import compute_kl_divergence

_LOG_OFFSET = 1e-4
"""Keeps the logarithm of the remaining probability finite."""


@dataclass(frozen=True, kw_only=True)
class MART(AdversarialRecipe):
    """Boosted cross-entropy on PGD examples, and a divergence with a larger weight on uncertain images.

    Attributes:
        beta: Weight of the divergence; 5 in the paper's experiments (there lambda).

    Source: Wang et al. 2020, "Improving adversarial robustness requires revisiting misclassified examples",
    ICLR, openreview rklOg6EFwS, eq. 8 to 11.
    """

    method = "mart"

    beta: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_condition(self.beta > 0, "beta must be positive")
        check_condition(self.label_smoothing == 0, "MART has no label_smoothing")

    def build_objective(self, context: TrainingContext) -> TrainingObjective:
        """Build boosted cross-entropy plus weighted divergence."""
        return _MARTObjective(context, self)


class _MARTObjective(AdversarialObjective[MART]):
    def compute_loss(self, batch: TrainingBatch) -> Tensor:
        examples = self.build_pgd_examples(batch)
        clean, adversarial = self.context.module(batch.images), self.context.module(examples)
        return compute_mart_loss(clean, adversarial, batch.labels, self.recipe.beta)


def compute_mart_loss(clean: Tensor, adversarial: Tensor, labels: Tensor, beta: float) -> Tensor:
    """Compute the loss of a batch, a scalar.

    Args:
        clean: Logits of the clean images, (N, K).
        adversarial: Logits of their adversarial examples, (N, K).
        labels: (N,).
        beta: Weight of the second term.

    Source: Wang et al. 2020, eq. 11.
    """
    probabilities = adversarial.softmax(dim=1)
    other_probabilities = probabilities.scatter(1, labels[:, None], 0.0)
    boosted = nn.functional.cross_entropy(adversarial, labels, reduction="none")
    boosted = boosted - torch.log(1 - other_probabilities.amax(dim=1) + _LOG_OFFSET)
    label_probability = clean.softmax(dim=1).gather(1, labels[:, None])[:, 0]
    return (boosted + beta * compute_kl_divergence(clean, adversarial) * (1 - label_probability)).mean()
