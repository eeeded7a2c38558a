"""Certified training: a growing weight on the loss of the worst logits that the bounds allow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from robustbench_local.certification.bound_propagation.bounds import Network, compute_ibp_margins
from robustbench_local.certification.bound_propagation.graph import trace_network
from robustbench_local.defenses.recipes.base import Recipe, check_condition
from robustbench_local.defenses.recipes.training_objective import (
    TrainingBatch,
    TrainingContext,
    TrainingObjective,
)
from robustbench_local.defenses.recipes.training_pgd import frozen_evaluation_mode
from robustbench_local.threats.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class CertifiedRecipe(Recipe):
    """Training for networks that interval bounds can certify.

    After ``clean_epochs`` of standard training, the radius and the weight of the worst case increase linearly
    over ``ramp_epochs``. Bounds of a network that was not trained for them are too loose at first, and
    starting at the full radius makes training fail.

    Attributes:
        threat: Norm Linf and the radius at the end of the ramp.
        kappa: Weight of the cross-entropy on clean images at the end of the ramp. It starts at 1; the worst
            case has the remaining weight.
        clean_epochs: Epochs before the ramp.
        ramp_epochs: Length of the ramp in epochs.
    """

    threat: ThreatModel
    kappa: float
    clean_epochs: int
    ramp_epochs: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_condition(self.threat.norm == "Linf", f"trains against Linf only, not {self.threat.norm}")
        check_condition(0 <= self.kappa < 1, "kappa must be in [0, 1)")
        check_condition(
            self.clean_epochs >= 0 and self.ramp_epochs >= 1,
            "clean_epochs must not be negative and ramp_epochs at least 1",
        )
        check_condition(
            self.clean_epochs + self.ramp_epochs <= self.epochs, "the ramp must end before the training"
        )

    def compute_ramp(self, progress: float) -> float:
        """Return the position on the ramp at ``progress`` epochs, 0 to 1."""
        return min(1.0, max(0.0, (progress - self.clean_epochs) / self.ramp_epochs))


RecipeType = TypeVar("RecipeType", bound=CertifiedRecipe)


class CertifiedObjective(TrainingObjective, ABC, Generic[RecipeType]):
    """Mixes the two losses; the share of images certified by interval bounds selects the best epoch.

    Args:
        context: The training.
        recipe: Its hyperparameters.

    Raises:
        ModelError: If the network has a layer without bounds.
    """

    robust_metric = "verified"

    def __init__(self, context: TrainingContext, recipe: RecipeType) -> None:
        super().__init__(context)
        self.recipe = recipe
        self.network: Network = trace_network(context.module, tuple(context.training.images.shape[1:]))

    @abstractmethod
    def compute_margins(self, lower: Tensor, upper: Tensor, labels: Tensor, ramp: float) -> Tensor:
        """Compute lower bounds of the label's margins over boxes of images, (N, K), 0 at the label."""

    def compute_loss(self, batch: TrainingBatch) -> Tensor:
        """Return kappa times the clean cross-entropy plus 1 - kappa times that of the worst logits."""
        ramp = self.recipe.compute_ramp(batch.progress)
        clean = nn.functional.cross_entropy(
            self.context.module(batch.images), batch.labels, label_smoothing=self.recipe.label_smoothing
        )
        if ramp == 0:
            return clean
        kappa = 1 - (1 - self.recipe.kappa) * ramp
        box = _compute_box(batch.images, ramp * self.recipe.threat.eps)
        margins = self.context.memory_split.compute_rows(
            lambda lower, upper, labels: self.compute_margins(lower, upper, labels, ramp),
            (*box, batch.labels),
        )
        return kappa * clean + (1 - kappa) * nn.functional.cross_entropy(-margins, batch.labels)

    def is_robust(self, module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Return whether interval bounds certify the label at the full radius, in the images' precision."""
        with frozen_evaluation_mode(module), torch.no_grad():
            margins = self.context.memory_split.compute_rows(
                partial(compute_ibp_margins, module),
                (*_compute_box(images, self.recipe.threat.eps), labels),
            )
        return margins.scatter(1, labels[:, None], torch.inf).amin(dim=1) > 0


def _compute_box(images: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the smallest and largest pixels of the ball, inside [0, 1]."""
    return (images - eps).clamp(min=0), (images + eps).clamp(max=1)
