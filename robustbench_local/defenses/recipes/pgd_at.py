"""Adversarial training against PGD."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from robustbench_local.defenses.recipes.awp import WeightPerturbedObjective, WeightPerturbedRecipe
from robustbench_local.defenses.recipes.training_objective import (
    TrainingBatch,
    TrainingContext,
    TrainingObjective,
)


@dataclass(frozen=True, kw_only=True)
class PGDTraining(WeightPerturbedRecipe):
    """Adversarial training: each batch is replaced by its own PGD examples.

    Source: Madry et al. 2018, arXiv:1706.06083, sec. 2.1.
    """

    method = "pgd-at"

    def build_objective(self, context: TrainingContext) -> TrainingObjective:
        """Cross-entropy on PGD examples."""
        return _PGDObjective(context, self)


class _PGDObjective(WeightPerturbedObjective[PGDTraining]):
    def compute_loss(self, batch: TrainingBatch) -> Tensor:
        examples, smoothing = self.build_pgd_examples(batch), self.recipe.label_smoothing
        return self.compute_worst_weights_loss(
            batch,
            lambda forward: nn.functional.cross_entropy(
                forward(examples), batch.labels, label_smoothing=smoothing
            ),
        )
