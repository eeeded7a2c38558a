"""Fast adversarial training: one step from a random start, and an eye on its sudden collapse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_local.defenses.recipes.adversarial_base import AdversarialObjective, AdversarialRecipe
from robustbench_local.defenses.recipes.base import require
from robustbench_local.defenses.recipes.training_objective import Batch, Context, Objective
from robustbench_local.defenses.recipes.training_pgd import frozen, linf_examples
from robustbench_local.errors import ModelError

_GAP = 0.3
"""FGSM accuracy above PGD accuracy, as shares, that a sound training does not show: there PGD costs it a few
points more than FGSM, and on 256 images chance moves the gap by less than ten."""
_FALL = 0.5
"""PGD accuracy below this share of what it should be is a collapse."""


@dataclass(frozen=True, kw_only=True)
class FastTraining(AdversarialRecipe):
    """Adversarial training with FGSM from a uniform start; ``steps`` is 1, ``step_size`` 1.25 in the paper.

    With too long a step or too long a training it can learn, within an epoch, to withstand FGSM alone
    (catastrophic overfitting). After each epoch both attacks are tried on validation images, and the training
    stops if PGD accuracy is far below FGSM accuracy and less than half of its own best so far; from the
    second epoch at the full radius on, less than half of FGSM accuracy is enough.

    Source: Wong, Rice and Kolter 2020, arXiv:2001.03994, algorithm 3 and sec. 5.
    """

    method = "fast-at"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.steps == 1, "fast adversarial training has one step; use pgd-at for more")

    def objective(self, context: Context) -> Objective:
        """Cross-entropy on FGSM examples from a random start."""
        return _FastObjective(context, self)


class _FastObjective(AdversarialObjective[FastTraining]):
    def __init__(self, context: Context, recipe: FastTraining) -> None:
        super().__init__(context, recipe)
        self._best, self._settled = 0.0, False

    def loss(self, batch: Batch) -> Tensor:
        # Weights that have seen less than an epoch of the full radius may still learn to withstand PGD.
        self._settled = batch.progress >= max(1, self.recipe.eps_warmup_epochs)
        logits = self.context.module(self.pgd(batch))
        return nn.functional.cross_entropy(logits, batch.labels, label_smoothing=self.recipe.label_smoothing)

    def watch(self, images: Tensor, labels: Tensor) -> None:
        """Compare FGSM and PGD on the weights as they are, not averaged: there it shows first."""
        module, eps = self.context.module, self.recipe.threat.eps
        fgsm_images = linf_examples(module, images, labels, eps=eps, steps=1, step_size=eps)
        fgsm = _accuracy(module, fgsm_images, labels)
        pgd = _accuracy(module, self.examples(module, images, labels), labels)
        due = max(self._best, fgsm) if self._settled else self._best
        if fgsm - pgd > _GAP and pgd < _FALL * due:
            raise ModelError(
                f"catastrophic overfitting: PGD accuracy is {pgd:.1%}, at best {self._best:.1%}, while "
                f"FGSM accuracy is {fgsm:.1%}",
                where="training",
                remedy="lower step_size, train for fewer epochs, or use pgd-at",
            )
        self._best = max(self._best, pgd)

    def state(self) -> dict[str, Any]:
        return {"best": self._best}

    def restore(self, state: dict[str, Any]) -> None:
        self._best = state["best"]


@torch.no_grad()
def _accuracy(module: nn.Module, images: Tensor, labels: Tensor) -> float:
    with frozen(module):
        return float((module(images).argmax(dim=1) == labels).float().mean())
