"""Free adversarial training: one backward pass serves the weights and the perturbation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_local.bpda import clamp_with_border_gradient
from robustbench_local.classifier.gradient_repair import keep_backward_finite, remove_nonfinite
from robustbench_local.defenses.recipes.adversarial_base import AdversarialObjective, AdversarialRecipe
from robustbench_local.defenses.recipes.base import check_condition
from robustbench_local.defenses.recipes.training_objective import (
    TrainingBatch,
    TrainingContext,
    TrainingObjective,
)
from robustbench_local.defenses.recipes.training_pgd import move_off_borders


@dataclass(frozen=True, kw_only=True)
class FreeTraining(AdversarialRecipe):
    """Each batch is replayed; every step uses one gradient for the weights and for the perturbation.

    The perturbation is carried over to the next batch. An epoch costs as much as ``replays`` standard epochs,
    so the paper divides the number of epochs by it. ``steps`` is 1, ``step_size`` in units of the radius is
    1.

    Attributes:
        replays: Steps on each batch; 8 in the paper, 4 on ImageNet.

    Source: Shafahi et al. 2019, arXiv:1904.12843, algorithm 1.
    """

    method = "free-at"

    replays: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_condition(self.replays >= 1, "replays must be at least 1")
        check_condition(self.steps == 1, "free adversarial training has one step per replay")

    def build_objective(self, context: TrainingContext) -> TrainingObjective:
        """Build cross-entropy on images with the carried perturbation."""
        return _FreeObjective(context, self)


class _FreeObjective(AdversarialObjective[FreeTraining]):
    def __init__(self, context: TrainingContext, recipe: FreeTraining) -> None:
        super().__init__(context, recipe)
        self.replays = recipe.replays
        self._perturbation: Tensor | None = None
        self._eps, self._repairs_gradients = 0.0, False

    def compute_loss(self, batch: TrainingBatch) -> Tensor:
        added = self._compute_perturbation()
        self._eps = self.recipe.compute_eps(batch.progress)
        start = torch.zeros_like(batch.images) if added is None else added.to(batch.images.device)
        self._perturbation = start.detach().requires_grad_()
        examples = clamp_with_border_gradient(batch.images + self._perturbation)
        logits = self.context.module(move_off_borders(self.context.module, examples))
        loss = nn.functional.cross_entropy(logits, batch.labels, label_smoothing=self.recipe.label_smoothing)
        if self._repairs_gradients:
            keep_backward_finite(loss)
        return loss

    def _compute_perturbation(self) -> Tensor | None:
        """Return the perturbation after the step of the last backward pass."""
        if self._perturbation is None or self._perturbation.grad is None:
            return self._perturbation
        slope = remove_nonfinite(self._perturbation.grad)
        # the previous backward pass is not repeated; the gradients of all later passes are repaired
        self._repairs_gradients |= not torch.equal(slope, self._perturbation.grad)
        step = self.recipe.step_size * self._eps * slope.sign()
        return (self._perturbation.detach() + step).clamp(-self._eps, self._eps)

    def forget_failed_step(self) -> None:
        if self._perturbation is not None:
            self._perturbation = self._perturbation.detach()  # where that step began, without its gradient

    def state_dict(self) -> dict[str, Any]:
        moved = self._compute_perturbation()
        return {
            "added": None if moved is None else moved.detach().cpu(),
            "repairing": self._repairs_gradients,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._perturbation, self._repairs_gradients = state["added"], state.get("repairing", False)
