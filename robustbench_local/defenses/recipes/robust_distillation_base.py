"""The base classes of robust distillation: a robust teacher, evaluated on the clean images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from robustbench_local.defenses.recipes.adversarial_base import AdversarialObjective, AdversarialRecipe
from robustbench_local.defenses.recipes.base import check_condition
from robustbench_local.defenses.recipes.training_objective import TrainingBatch, TrainingContext


@dataclass(frozen=True, kw_only=True)
class RobustDistillation(AdversarialRecipe):
    """Training a student on adversarial examples, towards a robust teacher's probabilities.

    Attributes:
        teacher: The robust classifier to learn from, such as ``"zoo:signs-pgd-at"``.
        alpha: Weight of the adversarial term, 0 to 1; the clean term has the remaining weight.
    """

    teacher: str
    alpha: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_condition(bool(self.teacher), "teacher must name a robust classifier")
        check_condition(0 <= self.alpha <= 1, "alpha must be in [0, 1]")


RecipeType = TypeVar("RecipeType", bound=RobustDistillation)


class RobustDistillationObjective(AdversarialObjective[RecipeType]):
    """Loads the teacher.

    Args:
        context: The training.
        recipe: Its hyperparameters.
    """

    def __init__(self, context: TrainingContext, recipe: RecipeType) -> None:
        super().__init__(context, recipe)
        self._teacher = context.load_teacher(recipe.teacher)

    @torch.no_grad()
    def compute_teacher_logits(self, batch: TrainingBatch) -> Tensor:
        """Return the teacher's logits on the clean images, (N, K)."""
        logits: Tensor = self._teacher(batch.images)
        return logits
