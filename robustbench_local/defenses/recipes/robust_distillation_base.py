"""What the robust distillations share: a robust teacher, asked about the clean images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from robustbench_local.defenses.recipes.adversarial_base import AdversarialObjective, AdversarialRecipe
from robustbench_local.defenses.recipes.base import require
from robustbench_local.defenses.recipes.training_objective import Batch, Context


@dataclass(frozen=True, kw_only=True)
class RobustDistillation(AdversarialRecipe):
    """Training a student, on images that an adversary changes, towards a robust teacher's probabilities.

    Attributes:
        teacher: The robust classifier to learn from, such as ``"zoo:signs-pgd-at"``.
        alpha: Weight of the adversarial term, 0 to 1; the clean term has the rest.
    """

    teacher: str
    alpha: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.teacher), "teacher must name a robust classifier")
        require(0 <= self.alpha <= 1, "alpha must be in [0, 1]")


Student = TypeVar("Student", bound=RobustDistillation)


class RobustDistillationObjective(AdversarialObjective[Student]):
    """Loads the teacher.

    Args:
        context: The training.
        recipe: Its hyper-parameters.
    """

    def __init__(self, context: Context, recipe: Student) -> None:
        super().__init__(context, recipe)
        self._teacher = context.teacher(recipe.teacher)

    @torch.no_grad()
    def taught(self, batch: Batch) -> Tensor:
        """The teacher's logits on the clean images, (N, K)."""
        logits: Tensor = self._teacher(batch.images)
        return logits
