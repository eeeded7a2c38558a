"""Fast adversarial training: one FGSM step from a random start, with a check for catastrophic overfitting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_local.defenses.recipes.adversarial_base import AdversarialObjective, AdversarialRecipe
from robustbench_local.defenses.recipes.base import check_condition
from robustbench_local.defenses.recipes.training_objective import (
    TrainingBatch,
    TrainingContext,
    TrainingObjective,
)
from robustbench_local.defenses.recipes.training_pgd import build_linf_examples, frozen_evaluation_mode
from robustbench_local.errors import ModelError

_MIN_GAP_SHARE = 0.3
"""Gap of FGSM accuracy over PGD accuracy, as a share, that indicates catastrophic overfitting. In a stable
training PGD costs a few points more than FGSM, and on 256 images the random variation of the gap is below ten
points."""
_COLLAPSE_SHARE = 0.5
"""PGD accuracy below this fraction of its reference value is a collapse."""


@dataclass(frozen=True, kw_only=True)
class FastTraining(AdversarialRecipe):
    """Adversarial training with FGSM from a uniform start; ``steps`` is 1, ``step_size`` 1.25 in the paper.

    If the step or the training is too long, the network can become robust to FGSM alone within an epoch
    (catastrophic overfitting). Both attacks are run on the validation images after each epoch. Training stops
    if PGD accuracy is far below FGSM accuracy and less than half of its own best so far; from the second
    epoch at the full radius on, less than half of FGSM accuracy is enough.

    Source: Wong, Rice and Kolter 2020, arXiv:2001.03994, algorithm 3 and sec. 5.
    """

    method = "fast-at"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_condition(self.steps == 1, "fast adversarial training has one step; use pgd-at for more")

    def build_objective(self, context: TrainingContext) -> TrainingObjective:
        """Build cross-entropy on FGSM examples from a random start."""
        return _FastObjective(context, self)


class _FastObjective(AdversarialObjective[FastTraining]):
    def __init__(self, context: TrainingContext, recipe: FastTraining) -> None:
        super().__init__(context, recipe)
        self._best_pgd_accuracy, self._has_full_radius = 0.0, False

    def compute_loss(self, batch: TrainingBatch) -> Tensor:
        # Weights trained for less than an epoch at the full radius may still become robust to PGD.
        self._has_full_radius = batch.progress >= max(1, self.recipe.eps_warmup_epochs)
        logits = self.context.module(self.build_pgd_examples(batch))
        return nn.functional.cross_entropy(logits, batch.labels, label_smoothing=self.recipe.label_smoothing)

    def check_collapse(self, images: Tensor, labels: Tensor) -> None:
        """Compare FGSM and PGD on the current weights, where a collapse shows before the average."""
        module, eps = self.context.module, self.recipe.threat.eps
        fgsm_images = build_linf_examples(module, images, labels, eps=eps, steps=1, step_size=eps)
        fgsm = _compute_accuracy(module, fgsm_images, labels)
        pgd = _compute_accuracy(module, self.build_examples(module, images, labels), labels)
        due = max(self._best_pgd_accuracy, fgsm) if self._has_full_radius else self._best_pgd_accuracy
        if fgsm - pgd > _MIN_GAP_SHARE and pgd < _COLLAPSE_SHARE * due:
            raise ModelError(
                f"catastrophic overfitting: PGD accuracy is {pgd:.1%}, at best "
                f"{self._best_pgd_accuracy:.1%}, while FGSM accuracy is {fgsm:.1%}",
                where="training",
                remedy="lower step_size, train for fewer epochs, or use pgd-at",
            )
        self._best_pgd_accuracy = max(self._best_pgd_accuracy, pgd)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best_pgd_accuracy}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best_pgd_accuracy = state["best"]


@torch.no_grad()
def _compute_accuracy(module: nn.Module, images: Tensor, labels: Tensor) -> float:
    with frozen_evaluation_mode(module):
        return float((module(images).argmax(dim=1) == labels).float().mean())
