"""FGSM: one step of full length along the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from robustbench_local.attacks.base import AttackInputs, BallAttack
from robustbench_local.attacks.core.objective import LossName, build_objective, check_loss, check_loss_defined
from robustbench_local.classifier import Classifier
from robustbench_local.threats.lp_ball import compute_steepest_step, project_to_box
from robustbench_local.threats.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class FGSM(BallAttack):
    """Fast gradient sign method, and its L2 form; a baseline attack, not evidence of robustness.

    Args:
        loss: ``"ce"``, ``"margin"`` or ``"dlr"``; towards the target set if the goal is targeted.

    Raises:
        ConfigError: If the loss is unknown.

    Source: Goodfellow et al. 2015, arXiv:1412.6572.
    """

    regions: ClassVar[frozenset[str]] = frozenset({"image", "mask"})

    loss: LossName = "ce"

    def __post_init__(self) -> None:
        check_loss(self.loss)

    def find_candidates(self, inputs: AttackInputs) -> Tensor:
        """Take the step; see :meth:`BallAttack.find_candidates`."""
        images, threat, masks = inputs.images, inputs.threat, inputs.masks
        objective = build_objective(self.loss, threat, inputs.labels)
        _, _, gradient = inputs.classifier.compute_gradient(images, objective)
        direction = compute_steepest_step(gradient if masks is None else gradient * masks, threat.norm)
        return project_to_box(images + threat.eps * direction, images, threat, masks)

    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Return one pass each way."""
        return (1, 1) if threat.eps else (0, 0)

    def check_support(self, threat: ThreatModel, classifier: Classifier) -> None:
        """See :meth:`Attack.check_support`; also refuses a loss that is undefined for the goal."""
        super().check_support(threat, classifier)
        check_loss_defined(self.loss, threat, classifier.num_classes)
