"""The base class of attacks that search for the nearest adversarial example instead of any one in a ball."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_local.attacks.base import AttackInputs, Measure
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.engine_attack import EngineAttack
from robustbench_local.attacks.core.objective import compute_success_margin
from robustbench_local.attacks.minimum_norm.nearest_search import is_clearly_adversarial
from robustbench_local.attacks.minimum_norm.refine import estimate_refinement_cost, refine_successes
from robustbench_local.threats.lp_ball import compute_norms, reshape_for_broadcast
from robustbench_local.threats.threat_model import ThreatModel

_RADIUS_SLACK_SHARE = 1e-6
"""Relative tolerance for the rounding of a perturbation projected to the radius."""
_CONFIRMATION_PASSES = 2
"""Evaluations of the candidates as in the harness: all images at once."""
_EXTENSION_SHARE = 1e-3
"""Relative extension of a candidate whose success depends on the shape of the batch."""


@dataclass(frozen=True, kw_only=True)
class MinimumNormAttack(EngineAttack):
    """An attack whose candidate is the nearest success, or the original if that is outside the ball.

    A subclass implements ``run_searches``, and ``estimate_search_cost`` for its cost; its results are
    refined.
    """

    regions: ClassVar[frozenset[str]] = frozenset({"image", "mask"})
    measure: ClassVar[Measure] = "distance"

    def build_engine(self, inputs: AttackInputs) -> Engine:
        """See :meth:`EngineAttack.build_engine`; in float32, as the decision boundary is the target."""
        return Engine.from_inputs(inputs, force_float32=True)

    @abstractmethod
    def run_searches(self, engine: Engine, threat: ThreatModel) -> None:
        """Run searches on the engine, all of them a ``MinimumNormSearch``."""

    def select_candidates(self, engine: Engine, threat: ThreatModel) -> Tensor:
        """Return the refined successes inside the ball; the original if there is none."""
        self.refine_results(engine, threat)
        return _confirm_candidates(engine, threat)

    def refine_results(self, engine: Engine, threat: ThreatModel) -> None:
        """Move the engine's successes nearer."""
        refine_successes(engine, threat)

    def estimate_refinement(self, threat: ThreatModel) -> tuple[int, int]:
        """Return the maximum forward and backward passes of ``refine_results`` per image."""
        return estimate_refinement_cost(threat)

    @abstractmethod
    def estimate_search_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Return the maximum forward and backward passes of ``run_searches`` per image."""

    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Return the passes of the search, of the refinement and of the last evaluations."""
        if threat.eps == 0:
            return 0, 0
        search, refinement = self.estimate_search_cost(threat), self.estimate_refinement(threat)
        return search[0] + refinement[0] + _CONFIRMATION_PASSES, search[1] + refinement[1]


def _confirm_candidates(engine: Engine, threat: ThreatModel) -> Tensor:
    """Return the nearest confirmed success of each image; the original if there is none inside the ball."""
    candidates, success = engine.points, engine.scores > 0
    for _ in range(_CONFIRMATION_PASSES):
        logits = engine.classifier(candidates)
        holds = is_clearly_adversarial(compute_success_margin(logits, engine.labels, threat), logits, 0.0)
        turned = success & ~holds
        if not bool(turned.any()):
            break
        longer = engine.images + (1 + _EXTENSION_SHARE) * (candidates - engine.images)
        candidates = torch.where(reshape_for_broadcast(turned, longer), longer.clamp(0, 1), candidates)
    distance = compute_norms(candidates - engine.images, threat.norm)
    is_in_ball = success & (distance <= threat.eps * (1 + _RADIUS_SLACK_SHARE))
    return torch.where(reshape_for_broadcast(is_in_ball, candidates), candidates, engine.images)
