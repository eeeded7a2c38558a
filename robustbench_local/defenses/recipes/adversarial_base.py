"""The base classes of adversarial training: growing radius, adversary, and PGD to select the best epoch."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from robustbench_local.defenses.recipes.base import Recipe, check_condition
from robustbench_local.defenses.recipes.training_objective import (
    TrainingBatch,
    TrainingContext,
    TrainingObjective,
)
from robustbench_local.defenses.recipes.training_pgd import (
    add_small_noise,
    build_linf_examples,
    compute_kl_divergence,
)
from robustbench_local.defenses.training.schedule import compute_warmup_share
from robustbench_local.threats.threat_model import ThreatModel

VALIDATION_STEPS = 10
"""PGD steps on the validation images."""


@dataclass(frozen=True, kw_only=True)
class AdversarialRecipe(Recipe):
    """Training on adversarial examples.

    Attributes:
        threat: Norm Linf and the full radius.
        steps: Gradient steps of the adversary on each batch.
        step_size: Length of a step in units of the radius.
        eps_warmup_epochs: Epochs over which the radius grows from 0 to its full size.
    """

    threat: ThreatModel
    steps: int
    step_size: float
    eps_warmup_epochs: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_condition(self.threat.norm == "Linf", f"trains against Linf only, not {self.threat.norm}")
        check_condition(
            self.steps >= 1 and self.step_size > 0, "steps must be at least 1 and step_size positive"
        )
        check_condition(0 <= self.eps_warmup_epochs <= self.epochs, "eps_warmup_epochs must be 0 to epochs")

    def compute_eps(self, progress: float) -> float:
        """Return the adversary's radius at ``progress`` epochs, in pixel units of [0, 1]."""
        return self.threat.eps * compute_warmup_share(progress, self.eps_warmup_epochs)


RecipeType = TypeVar("RecipeType", bound=AdversarialRecipe)


class AdversarialObjective(TrainingObjective, ABC, Generic[RecipeType]):
    """An objective on adversarial examples; PGD at the full radius selects the best epoch.

    Args:
        context: The training.
        recipe: Its hyperparameters.
    """

    robust_metric = f"PGD-{VALIDATION_STEPS}"

    def __init__(self, context: TrainingContext, recipe: RecipeType) -> None:
        super().__init__(context)
        self.recipe = recipe

    def build_pgd_examples(self, batch: TrainingBatch) -> Tensor:
        """Build PGD examples on the cross-entropy, from a uniform start, at the current radius."""
        return self._run_pgd(batch, generator=batch.generator)

    def build_divergence_examples(self, batch: TrainingBatch, logits: Tensor) -> Tensor:
        """Build PGD examples on the divergence from given logits, at the current radius.

        Args:
            batch: The step's images.
            logits: The reference logits of the divergence, (N, K), without gradients.
        """
        return self._run_pgd(
            batch,
            start=add_small_noise(batch.images, batch.generator),
            loss=lambda found, _labels: compute_kl_divergence(logits, found).sum(),
        )

    def _run_pgd(self, batch: TrainingBatch, **how: Any) -> Tensor:
        eps = self.recipe.compute_eps(batch.progress)
        step_size = self.recipe.step_size * eps
        return build_linf_examples(
            self.context.module,
            batch.images,
            batch.labels,
            eps=eps,
            steps=self.recipe.steps,
            step_size=step_size,
            **how,
        )

    def build_examples(self, module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Build PGD examples at the full radius, from the images themselves, without randomness."""
        eps = self.recipe.threat.eps
        return build_linf_examples(
            module, images, labels, eps=eps, steps=VALIDATION_STEPS, step_size=eps / 4, generator=None
        )
