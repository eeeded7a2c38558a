"""Standard training on clean images: the baseline of every defense."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from robustbench_local.defenses.recipes.base import Recipe
from robustbench_local.defenses.recipes.training_objective import (
    TrainingBatch,
    TrainingContext,
    TrainingObjective,
)


@dataclass(frozen=True, kw_only=True)
class Standard(Recipe):
    """Standard training: cross-entropy on clean images."""

    method = "standard"

    def build_objective(self, context: TrainingContext) -> TrainingObjective:
        """Build cross-entropy."""
        return CrossEntropyObjective(context, self)


class CrossEntropyObjective(TrainingObjective):
    """Cross-entropy on the batch."""

    def __init__(self, context: TrainingContext, recipe: Recipe) -> None:
        super().__init__(context)
        self._smoothing = recipe.label_smoothing

    def compute_loss(self, batch: TrainingBatch) -> Tensor:
        """Compute the mean cross-entropy."""
        logits = self.context.module(batch.images)
        return nn.functional.cross_entropy(logits, batch.labels, label_smoothing=self._smoothing)
