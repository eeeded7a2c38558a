"""Adversarial training with PGD."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from robustbench_local.defenses.recipes.adversarial_base import AdversarialObjective, AdversarialRecipe
from robustbench_local.defenses.recipes.awp import WeightPerturbation
from robustbench_local.defenses.recipes.training_objective import (
    TrainingBatch,
    TrainingContext,
    TrainingObjective,
)


@dataclass(frozen=True, kw_only=True)
class PGDTraining(AdversarialRecipe):
    """Adversarial training: each batch is replaced by PGD examples.

    Attributes:
        awp_gamma: Largest adversarial perturbation of a layer's weights, in units of their norm; 0 for none.
        awp_warmup_epochs: Epochs before the weight perturbation starts.

    Source: Madry et al. 2018, arXiv:1706.06083, sec. 2.1.
    """

    method = "pgd-at"

    awp_gamma: float = 0.0
    awp_warmup_epochs: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.weight_perturbation.check_range(self.epochs)

    @property
    def weight_perturbation(self) -> WeightPerturbation:
        """The perturbation of the weights for the loss."""
        return WeightPerturbation(gamma=self.awp_gamma, warmup_epochs=self.awp_warmup_epochs)

    def build_objective(self, context: TrainingContext) -> TrainingObjective:
        """Build cross-entropy on PGD examples."""
        return _PGDObjective(context, self)


class _PGDObjective(AdversarialObjective[PGDTraining]):
    def compute_loss(self, batch: TrainingBatch) -> Tensor:
        examples, smoothing = self.build_pgd_examples(batch), self.recipe.label_smoothing
        return self.recipe.weight_perturbation.compute_loss(
            self.context.module,
            lambda forward: nn.functional.cross_entropy(
                forward(examples), batch.labels, label_smoothing=smoothing
            ),
            progress=batch.progress,
        )
