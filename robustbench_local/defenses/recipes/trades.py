"""TRADES: accuracy on clean images, and outputs that an adversary cannot move."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_local.defenses.recipes.awp import Forward, WeightPerturbedObjective, WeightPerturbedRecipe
from robustbench_local.defenses.recipes.base import require
from robustbench_local.defenses.recipes.training_objective import Batch, Context, Objective
from robustbench_local.defenses.recipes.training_pgd import divergence, frozen


@dataclass(frozen=True, kw_only=True)
class Trades(WeightPerturbedRecipe):
    """Cross-entropy on clean images plus ``beta`` times how far an adversary moves the probabilities.

    Attributes:
        beta: Weight of the second term; 6 in the paper's experiments (there 1 / lambda).

    Source: Zhang et al. 2019, arXiv:1901.08573, eq. 5 and algorithm 1.
    """

    method = "trades"

    beta: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.beta > 0, "beta must be positive")

    def objective(self, context: Context) -> Objective:
        """Cross-entropy plus weighted divergence."""
        return _TradesObjective(context, self)


class _TradesObjective(WeightPerturbedObjective[Trades]):
    def loss(self, batch: Batch) -> Tensor:
        examples = self._examples(batch)
        return self.at_worst_weights(batch, lambda forward: self._sum(forward, batch, examples))

    def _sum(self, forward: Forward, batch: Batch, examples: Tensor) -> Tensor:
        clean = forward(batch.images)
        moved = divergence(clean, forward(examples)).mean()
        smoothing = self.recipe.label_smoothing
        natural = nn.functional.cross_entropy(clean, batch.labels, label_smoothing=smoothing)
        return natural + self.recipe.beta * moved

    def _examples(self, batch: Batch) -> Tensor:
        """The adversary ascends the divergence itself; at the image its gradient is 0, hence the start."""
        module = self.context.module
        with frozen(module), torch.no_grad():
            clean = module(batch.images)
        return self.away_from(batch, clean)
