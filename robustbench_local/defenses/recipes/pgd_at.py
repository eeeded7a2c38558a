"""Adversarial training against PGD."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from robustbench_local.defenses.recipes.awp import WeightPerturbedObjective, WeightPerturbedRecipe
from robustbench_local.defenses.recipes.training_objective import Batch, Context, Objective


@dataclass(frozen=True, kw_only=True)
class PGDTraining(WeightPerturbedRecipe):
    """Adversarial training: each batch is replaced by its own PGD examples.

    Source: Madry et al. 2018, arXiv:1706.06083, sec. 2.1.
    """

    method = "pgd-at"

    def objective(self, context: Context) -> Objective:
        """Cross-entropy on PGD examples."""
        return _PGDObjective(context, self)


class _PGDObjective(WeightPerturbedObjective[PGDTraining]):
    def loss(self, batch: Batch) -> Tensor:
        examples, smoothing = self.pgd(batch), self.recipe.label_smoothing
        return self.at_worst_weights(
            batch,
            lambda forward: nn.functional.cross_entropy(
                forward(examples), batch.labels, label_smoothing=smoothing
            ),
        )
