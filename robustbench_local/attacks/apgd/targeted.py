"""APGD-T: APGD on the targeted DLR loss, towards each of the most likely other classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from robustbench_local.attacks.apgd.search_by_norm import build_apgd_search
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.engine_attack import EngineAttack
from robustbench_local.attacks.core.objective import LossName, check_counts
from robustbench_local.attacks.core.target_ranking import rank_targets
from robustbench_local.threats.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class APGDT(EngineAttack):
    """Targeted Auto-PGD: one path towards each of the most likely classes, side by side.

    The search for an image ends with any success that the goal accepts, whatever the target of the path. With
    fewer than 4 classes the targeted DLR loss is undefined, and the margin replaces it.

    Args:
        steps: Steps of a path, at least 1.
        restarts: Paths towards each class, at least 1.
        targets: Maximum number of target classes per image, at least 1: the most likely other classes on the
            clean image, or the classes of a targeted goal.

    Raises:
        ConfigError: If a number is out of range.

    Source: Croce & Hein 2020, arXiv:2003.01690, section 4.1.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"Linf", "L2", "L1"})
    regions: ClassVar[frozenset[str]] = frozenset({"image", "mask"})
    refills_batches: ClassVar[bool] = True

    steps: int = 100
    restarts: int = 1
    targets: int = 9

    def __post_init__(self) -> None:
        check_counts("APGDT", steps=self.steps, restarts=self.restarts, targets=self.targets)

    def run_searches(self, engine: Engine, threat: ThreatModel) -> None:
        """Run paths of every unfinished image towards each of its target classes, side by side."""
        targets = rank_targets(engine, threat, self.targets)
        loss = select_targeted_loss(engine.classifier.num_classes)
        for restart in range(self.restarts):
            search = build_apgd_search(threat=threat, steps=self.steps, loss=loss)
            engine.run(search, engine.build_items(restart, targets=targets))

    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Return the passes of the ranking, of all steps of all paths and of each path's last point."""
        paths = self.restarts * min(self.targets, len(threat.targets) or self.targets)
        return (1 + paths * (self.steps + 1), paths * self.steps) if threat.eps else (0, 0)


def select_targeted_loss(num_classes: int) -> LossName:
    """Return the targeted DLR loss where it is defined, otherwise the margin."""
    return "dlr" if num_classes >= 4 else "margin"
