"""FGSM: one step of full length along the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from robustbench_local.attacks.base import Attack, required_masks
from robustbench_local.attacks.core.objective import LossName, check_defined, check_loss, objective
from robustbench_local.classifier import Classifier
from robustbench_local.randomness import Stream
from robustbench_local.threats.lp_ball import steepest, to_ball_and_box
from robustbench_local.threats.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """Fast gradient sign method, and its L2 form; a baseline, never a robustness claim.

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

    def perturb(
        self,
        classifier: Classifier,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        stream: Stream,  # noqa: ARG002 - nothing is drawn
        masks: Tensor | None = None,
    ) -> Tensor:
        """Take the step; see :meth:`Attack.perturb`."""
        masks = required_masks(threat, masks)
        if len(images) == 0 or threat.eps == 0:
            return images.clone()
        _, _, gradient = classifier.gradient(images, objective(self.loss, threat, labels))
        direction = steepest(gradient if masks is None else gradient * masks, threat.norm)
        return to_ball_and_box(images + threat.eps * direction, images, threat, masks)

    def cost(self, threat: ThreatModel) -> tuple[int, int]:
        """One pass each way."""
        return (1, 1) if threat.eps else (0, 0)

    def check(self, threat: ThreatModel, classifier: Classifier) -> None:
        """See :meth:`Attack.check`; also refuses a loss that is undefined here."""
        super().check(threat, classifier)
        check_defined(self.loss, threat, classifier.num_classes)
