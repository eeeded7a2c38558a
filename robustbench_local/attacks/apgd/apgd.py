"""APGD: PGD with momentum and a step size that adapts to the progress of the path; nothing to tune."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from robustbench_local.attacks.apgd.search_by_norm import build_apgd_search
from robustbench_local.attacks.base import AttackInputs
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.engine_attack import EngineAttack
from robustbench_local.attacks.core.expectation import count_confirmation_passes
from robustbench_local.attacks.core.objective import LossName, check_counts, check_loss, check_loss_defined
from robustbench_local.classifier import Classifier
from robustbench_local.threats.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class APGD(EngineAttack):
    """Auto-PGD, with early stopping only on a confirmed success.

    Args:
        steps: Steps in each restart, at least 1.
        restarts: Paths per image, at least 1, each from a random start.
        loss: ``"ce"``, ``"dlr"`` or ``"margin"``; towards the target set if the goal is targeted.
        draws: Gradients averaged per step, for stochastic classifiers.
        early_stop: Whether the search for an image ends with its first success.

    Raises:
        ConfigError: If a number is out of range or the loss unknown.

    Source: Croce & Hein 2020, arXiv:2003.01690, algorithm 1; L1: Croce & Hein 2021, arXiv:2103.01208.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"Linf", "L2", "L1"})
    regions: ClassVar[frozenset[str]] = frozenset({"image", "mask"})
    refills_batches: ClassVar[bool] = True

    steps: int = 100
    restarts: int = 1
    loss: LossName = "ce"
    draws: int = 1
    early_stop: bool = True

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_counts("APGD", steps=self.steps, restarts=self.restarts, draws=self.draws)

    def build_engine(self, inputs: AttackInputs) -> Engine:
        """See :meth:`EngineAttack.build_engine`; averages over ``draws`` gradients."""
        return Engine.from_inputs(inputs, early_stop=self.early_stop, eot_samples=self.draws)

    def run_searches(self, engine: Engine, threat: ThreatModel) -> None:
        """Run a path of every unfinished image from each start."""
        for restart in range(self.restarts):
            engine.run(
                build_apgd_search(threat=threat, steps=self.steps, loss=self.loss),
                engine.build_items(restart),
            )

    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Return the passes of all steps of all restarts, of each path's last point and of judging draws."""
        paths, judging = self.restarts * self.draws, self.restarts * count_confirmation_passes(self.draws)
        return (paths * (self.steps + 1) + judging, paths * self.steps) if threat.eps else (0, 0)

    def check_support(self, threat: ThreatModel, classifier: Classifier) -> None:
        """See :meth:`Attack.check_support`; also refuses a loss that is undefined for the goal."""
        super().check_support(threat, classifier)
        check_loss_defined(self.loss, threat, classifier.num_classes)
