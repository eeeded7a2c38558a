"""Free adversarial training: one backward pass serves the weights and the perturbation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_local.bpda import clamp_passing_borders
from robustbench_local.classifier.gradient_repair import keep_backward_finite, remove_nonfinite
from robustbench_local.defenses.recipes.adversarial_base import AdversarialObjective, AdversarialRecipe
from robustbench_local.defenses.recipes.base import require
from robustbench_local.defenses.recipes.training_objective import Batch, Context, Objective
from robustbench_local.defenses.recipes.training_pgd import off_borders


@dataclass(frozen=True, kw_only=True)
class FreeTraining(AdversarialRecipe):
    """Each batch is replayed; every step moves the weights down and the perturbation up the same gradient.

    The perturbation is carried over to the next batch. An epoch costs as much as ``replays`` ordinary ones,
    so the paper divides their number by it. ``steps`` is 1, ``step_size`` in units of the radius is 1.

    Attributes:
        replays: Steps on each batch; 8 in the paper, 4 on ImageNet.

    Source: Shafahi et al. 2019, arXiv:1904.12843, algorithm 1.
    """

    method = "free-at"

    replays: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.replays >= 1, "replays must be at least 1")
        require(self.steps == 1, "free adversarial training has one step a replay")

    def objective(self, context: Context) -> Objective:
        """Cross-entropy on images with the carried perturbation."""
        return _FreeObjective(context, self)


class _FreeObjective(AdversarialObjective[FreeTraining]):
    def __init__(self, context: Context, recipe: FreeTraining) -> None:
        super().__init__(context, recipe)
        self.replays = recipe.replays
        self._added: Tensor | None = None
        self._eps, self._repairing = 0.0, False

    def loss(self, batch: Batch) -> Tensor:
        added = self._moved()
        self._eps = self.recipe.eps(batch.progress)
        start = torch.zeros_like(batch.images) if added is None else added.to(batch.images.device)
        self._added = start.detach().requires_grad_()
        examples = clamp_passing_borders(batch.images + self._added)
        logits = self.context.module(off_borders(self.context.module, examples))
        loss = nn.functional.cross_entropy(logits, batch.labels, label_smoothing=self.recipe.label_smoothing)
        if self._repairing:
            keep_backward_finite(loss)
        return loss

    def _moved(self) -> Tensor | None:
        """The perturbation after the step that the last backward pass has found."""
        if self._added is None or self._added.grad is None:
            return self._added
        slope = remove_nonfinite(self._added.grad)
        # the backward pass that has been is not done again; from here on they are all watched
        self._repairing |= not torch.equal(slope, self._added.grad)
        step = self.recipe.step_size * self._eps * slope.sign()
        return (self._added.detach() + step).clamp(-self._eps, self._eps)

    def state(self) -> dict[str, Any]:
        moved = self._moved()
        return {"added": None if moved is None else moved.detach().cpu(), "repairing": self._repairing}

    def restore(self, state: dict[str, Any]) -> None:
        self._added, self._repairing = state["added"], state.get("repairing", False)
