"""IBP training: training that makes the cheap interval bounds tight."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from robustbench_local.certification.bound_propagation.bounds import compute_ibp_margins
from robustbench_local.defenses.recipes.certified_base import CertifiedObjective, CertifiedRecipe
from robustbench_local.defenses.recipes.training_objective import TrainingContext, TrainingObjective


@dataclass(frozen=True, kw_only=True)
class IBPTraining(CertifiedRecipe):
    """Certified training on interval bounds.

    Source: Gowal et al. 2018, "On the effectiveness of interval bound propagation for training verifiably
    robust models", arXiv:1810.12715, eq. 12 and sec. 4.
    """

    method = "ibp"

    def build_objective(self, context: TrainingContext) -> TrainingObjective:
        """Build clean and worst-case cross-entropy with interval bounds."""
        return _IBPObjective(context, self)


class _IBPObjective(CertifiedObjective[IBPTraining]):
    def compute_margins(self, lower: Tensor, upper: Tensor, labels: Tensor, ramp: float) -> Tensor:  # noqa: ARG002
        return compute_ibp_margins(self.network, lower, upper, labels)
