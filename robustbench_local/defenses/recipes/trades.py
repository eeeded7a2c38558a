"""TRADES: accuracy on clean images, and outputs that are stable under attack."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_local.defenses.recipes.adversarial_base import AdversarialObjective, AdversarialRecipe
from robustbench_local.defenses.recipes.awp import ForwardFunction, WeightPerturbation
from robustbench_local.defenses.recipes.base import check_condition
from robustbench_local.defenses.recipes.training_objective import (
    TrainingBatch,
    TrainingContext,
    TrainingObjective,
)
from robustbench_local.defenses.recipes.training_pgd import compute_kl_divergence, frozen_evaluation_mode


@dataclass(frozen=True, kw_only=True)
class Trades(AdversarialRecipe):
    """Cross-entropy on clean images plus ``beta`` times the divergence that an adversary can cause.

    Attributes:
        awp_gamma: Largest adversarial perturbation of a layer's weights, in units of their norm; 0 for none.
        awp_warmup_epochs: Epochs before the weight perturbation starts.
        beta: Weight of the second term; 6 in the paper's experiments (there 1 / lambda).

    Source: Zhang et al. 2019, arXiv:1901.08573, eq. 5 and algorithm 1.
    """

    method = "trades"

    awp_gamma: float = 0.0
    awp_warmup_epochs: int = 0
    beta: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self.weight_perturbation.check_range(self.epochs)
        check_condition(self.beta > 0, "beta must be positive")

    @property
    def weight_perturbation(self) -> WeightPerturbation:
        """The perturbation of the weights for the loss."""
        return WeightPerturbation(gamma=self.awp_gamma, warmup_epochs=self.awp_warmup_epochs)

    def build_objective(self, context: TrainingContext) -> TrainingObjective:
        """Build cross-entropy plus weighted divergence."""
        return _TradesObjective(context, self)


class _TradesObjective(AdversarialObjective[Trades]):
    def compute_loss(self, batch: TrainingBatch) -> Tensor:
        examples = self._build_trades_examples(batch)
        return self.recipe.weight_perturbation.compute_loss(
            self.context.module,
            lambda forward: self._compute_trades_loss(forward, batch, examples),
            progress=batch.progress,
        )

    def _compute_trades_loss(
        self, forward: ForwardFunction, batch: TrainingBatch, examples: Tensor
    ) -> Tensor:
        clean = forward(batch.images)
        moved = compute_kl_divergence(clean, forward(examples)).mean()
        smoothing = self.recipe.label_smoothing
        natural = nn.functional.cross_entropy(clean, batch.labels, label_smoothing=smoothing)
        return natural + self.recipe.beta * moved

    def _build_trades_examples(self, batch: TrainingBatch) -> Tensor:
        """Maximize the divergence; its gradient is 0 at the image, hence the noisy start."""
        module = self.context.module
        with frozen_evaluation_mode(module), torch.no_grad():
            clean = module(batch.images)
        return self.build_divergence_examples(batch, clean)
