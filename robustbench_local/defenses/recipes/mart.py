"""MART: images that are misclassified even without an attack weigh more in adversarial training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_local.defenses.recipes.adversarial_base import AdversarialObjective, AdversarialRecipe
from robustbench_local.defenses.recipes.base import require
from robustbench_local.defenses.recipes.training_objective import Batch, Context, Objective
from robustbench_local.defenses.recipes.training_pgd import divergence

_LEAST = 1e-4
"""Keeps the logarithm of the probability that is left finite."""


@dataclass(frozen=True, kw_only=True)
class MART(AdversarialRecipe):
    """Boosted cross-entropy on PGD examples, and a divergence that weighs uncertain images more.

    Attributes:
        beta: Weight of the divergence; 5 in the paper's experiments (there lambda).

    Source: Wang et al. 2020, "Improving adversarial robustness requires revisiting misclassified examples",
    ICLR, openreview rklOg6EFwS, eq. 8 to 11.
    """

    method = "mart"

    beta: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.beta > 0, "beta must be positive")
        require(self.label_smoothing == 0, "MART has no label_smoothing")

    def objective(self, context: Context) -> Objective:
        """Boosted cross-entropy plus weighted divergence."""
        return _MARTObjective(context, self)


class _MARTObjective(AdversarialObjective[MART]):
    def loss(self, batch: Batch) -> Tensor:
        examples = self.pgd(batch)
        clean, adversarial = self.context.module(batch.images), self.context.module(examples)
        return mart_loss(clean, adversarial, batch.labels, self.recipe.beta)


def mart_loss(clean: Tensor, adversarial: Tensor, labels: Tensor, beta: float) -> Tensor:
    """The loss of a batch, a scalar.

    Args:
        clean: Logits of the clean images, (N, K).
        adversarial: Logits of their adversarial examples, (N, K).
        labels: (N,).
        beta: Weight of the second term.

    Source: Wang et al. 2020, eq. 11.
    """
    probabilities = adversarial.softmax(dim=1)
    others = probabilities.scatter(1, labels[:, None], 0.0)
    boosted = nn.functional.cross_entropy(adversarial, labels, reduction="none")
    boosted = boosted - torch.log(1 - others.amax(dim=1) + _LEAST)
    right = clean.softmax(dim=1).gather(1, labels[:, None])[:, 0]
    return (boosted + beta * divergence(clean, adversarial) * (1 - right)).mean()
