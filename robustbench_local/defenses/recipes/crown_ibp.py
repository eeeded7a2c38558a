"""CROWN-IBP: linear bounds while interval bounds are still loose, interval bounds at the end."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from robustbench_local.certification.bound_propagation.bounds import (
    compute_crown_ibp_margins,
    compute_ibp_margins,
)
from robustbench_local.defenses.recipes.base import check_condition
from robustbench_local.defenses.recipes.certified_base import CertifiedObjective, CertifiedRecipe
from robustbench_local.defenses.recipes.training_objective import TrainingContext, TrainingObjective


@dataclass(frozen=True, kw_only=True)
class CrownIBP(CertifiedRecipe):
    """Certified training on a mixture of linear and interval bounds.

    Attributes:
        beta: Weight of the linear bounds at the end of the ramp. It starts at 1; the interval bounds have the
            remaining weight.

    Source: Zhang et al. 2020, "Towards stable and efficient training of verifiably robust neural networks",
    arXiv:1906.06316, sec. 3.2 and eq. 7 (beta 0 at the end for large radii).
    """

    method = "crown-ibp"

    beta: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_condition(0 <= self.beta <= 1, "beta must be in [0, 1]")

    def build_objective(self, context: TrainingContext) -> TrainingObjective:
        """Build clean and worst-case cross-entropy with mixed bounds."""
        return _CrownIBPObjective(context, self)


class _CrownIBPObjective(CertifiedObjective[CrownIBP]):
    def compute_margins(self, lower: Tensor, upper: Tensor, labels: Tensor, ramp: float) -> Tensor:
        beta = 1 - (1 - self.recipe.beta) * ramp
        intervals = compute_ibp_margins(self.network, lower, upper, labels)
        if beta == 0:
            return intervals
        return beta * compute_crown_ibp_margins(self.network, lower, upper, labels) + (1 - beta) * intervals
