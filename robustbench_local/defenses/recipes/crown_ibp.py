"""CROWN-IBP: linear bounds while interval bounds are still loose, interval bounds in the end."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from robustbench_local.certification.bound_propagation.bounds import crown_ibp_margins, ibp_margins
from robustbench_local.defenses.recipes.base import require
from robustbench_local.defenses.recipes.certified_base import CertifiedObjective, CertifiedRecipe
from robustbench_local.defenses.recipes.training_objective import Context, Objective


@dataclass(frozen=True, kw_only=True)
class CrownIBP(CertifiedRecipe):
    """Certified training on a mixture of linear and interval bounds.

    Attributes:
        beta: Weight of the linear bounds at the end of the ramp; it starts at 1, and interval bounds have
            the rest.

    Source: Zhang et al. 2020, "Towards stable and efficient training of verifiably robust neural networks",
    arXiv:1906.06316, sec. 3.2 and eq. 7 (beta 0 at the end for large radii).
    """

    method = "crown-ibp"

    beta: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.beta <= 1, "beta must be in [0, 1]")

    def objective(self, context: Context) -> Objective:
        """Clean and worst-case cross-entropy by mixed bounds."""
        return _CrownIBPObjective(context, self)


class _CrownIBPObjective(CertifiedObjective[CrownIBP]):
    def margins(self, lower: Tensor, upper: Tensor, labels: Tensor, ramp: float) -> Tensor:
        beta = 1 - (1 - self.recipe.beta) * ramp
        intervals = ibp_margins(self.network, lower, upper, labels)
        if beta == 0:
            return intervals
        return beta * crown_ibp_margins(self.network, lower, upper, labels) + (1 - beta) * intervals
