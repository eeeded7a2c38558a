"""RSLAD: a robust teacher's soft labels take the place of hard ones everywhere."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from robustbench_local.defenses.recipes.robust_distillation_base import (
    RobustDistillation,
    RobustDistillationObjective,
)
from robustbench_local.defenses.recipes.training_objective import Batch, Context, Objective
from robustbench_local.defenses.recipes.training_pgd import divergence


@dataclass(frozen=True, kw_only=True)
class RSLAD(RobustDistillation):
    """Robust soft label adversarial distillation.

    Source: Zi et al. 2021, "Revisiting adversarial robustness distillation: robust soft labels make student
    better", arXiv:2108.07969, sec. 3.3.
    """

    method = "rslad"

    def objective(self, context: Context) -> Objective:
        """Divergence from the teacher, on clean and on adversarial images."""
        return _RSLADObjective(context, self)


def rslad_loss(clean: Tensor, adversarial: Tensor, taught: Tensor, alpha: float) -> Tensor:
    """(1 - alpha) KL(teacher(x), S(x)) + alpha KL(teacher(x), S(x')), the mean over the batch.

    Args:
        clean: The student's logits on clean images, (N, K).
        adversarial: The student's logits on adversarial images.
        taught: The teacher's logits on clean images.
        alpha: Weight of the adversarial term.
    """
    return ((1 - alpha) * divergence(taught, clean) + alpha * divergence(taught, adversarial)).mean()


class _RSLADObjective(RobustDistillationObjective[RSLAD]):
    def loss(self, batch: Batch) -> Tensor:
        taught, module = self.taught(batch), self.context.module
        # the adversary, too, moves the student away from the teacher, not from the label
        examples = self.away_from(batch, taught)
        return rslad_loss(module(batch.images), module(examples), taught, self.recipe.alpha)
