"""RSLAD: a robust teacher's soft labels replace the hard labels in all terms."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from robustbench_local.defenses.recipes.robust_distillation_base import (
    RobustDistillation,
    RobustDistillationObjective,
)
from robustbench_local.defenses.recipes.training_objective import (
    TrainingBatch,
    TrainingContext,
    TrainingObjective,
)
from robustbench_local.defenses.recipes.training_pgd import compute_kl_divergence


@dataclass(frozen=True, kw_only=True)
class RSLAD(RobustDistillation):
    """Robust soft label adversarial distillation.

    Source: Zi et al. 2021, "Revisiting adversarial robustness distillation: robust soft labels make student
    better", arXiv:2108.07969, sec. 3.3.
    """

    method = "rslad"

    def build_objective(self, context: TrainingContext) -> TrainingObjective:
        """Build the divergence from the teacher, on clean and on adversarial images."""
        return _RSLADObjective(context, self)


def compute_rslad_loss(clean: Tensor, adversarial: Tensor, teacher_logits: Tensor, alpha: float) -> Tensor:
    """(1 - alpha) KL(teacher(x), S(x)) + alpha KL(teacher(x), S(x')), the mean over the batch.

    Args:
        clean: The student's logits on clean images, (N, K).
        adversarial: The student's logits on adversarial images.
        teacher_logits: The teacher's logits on clean images.
        alpha: Weight of the adversarial term.
    """
    return (
        (1 - alpha) * compute_kl_divergence(teacher_logits, clean)
        + alpha * compute_kl_divergence(teacher_logits, adversarial)
    ).mean()


class _RSLADObjective(RobustDistillationObjective[RSLAD]):
    def compute_loss(self, batch: TrainingBatch) -> Tensor:
        taught, module = self.compute_teacher_logits(batch), self.context.module
        # the adversary also moves the student away from the teacher, not from the label
        examples = self.build_divergence_examples(batch, taught)
        return compute_rslad_loss(module(batch.images), module(examples), taught, self.recipe.alpha)
