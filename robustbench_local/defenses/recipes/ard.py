"""ARD: a student under attack matches the outputs of a robust teacher on clean images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from robustbench_local.defenses.recipes.base import check_condition
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
class ARD(RobustDistillation):
    """Adversarially robust distillation.

    Attributes:
        temperature: Divisor of both networks' logits in the adversarial term, at least 1.

    Source: Goldblum et al. 2020, "Adversarially robust distillation", arXiv:1905.09747, sec. 4.
    """

    method = "ard"

    temperature: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_condition(self.temperature >= 1, "temperature must be at least 1")

    def build_objective(self, context: TrainingContext) -> TrainingObjective:
        """Build cross-entropy on clean images, and divergence from the teacher on PGD examples."""
        return _ARDObjective(context, self)


def compute_ard_loss(
    clean: Tensor,
    adversarial: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    alpha: float,
    temperature: float,
) -> Tensor:
    """(1 - alpha) CE(S(x), y) + alpha T^2 KL(teacher(x) / T, S(x') / T), the mean over the batch.

    Args:
        clean: The student's logits on clean images, (N, K).
        adversarial: The student's logits on adversarial images.
        teacher_logits: The teacher's logits on clean images.
        labels: (N,).
        alpha: Weight of the adversarial term.
        temperature: T; its square scales the divergence's gradients to their size at T = 1.
    """
    moved = compute_kl_divergence(teacher_logits / temperature, adversarial / temperature).mean()
    return (1 - alpha) * nn.functional.cross_entropy(clean, labels) + alpha * temperature**2 * moved


class _ARDObjective(RobustDistillationObjective[ARD]):
    def compute_loss(self, batch: TrainingBatch) -> Tensor:
        recipe, module = self.recipe, self.context.module
        taught, examples = self.compute_teacher_logits(batch), self.build_pgd_examples(batch)
        adversarial = module(examples)
        clean = module(batch.images) if recipe.alpha < 1 else adversarial
        return compute_ard_loss(clean, adversarial, taught, batch.labels, recipe.alpha, recipe.temperature)
