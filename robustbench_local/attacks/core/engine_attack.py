"""The base class of attacks that search inside a ball on the engine."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from robustbench_local.attacks.base import AttackInputs, BallAttack
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.threats.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class EngineAttack(BallAttack):
    """An attack whose searches run on one engine; a subclass implements ``run_searches``."""

    def find_candidates(self, inputs: AttackInputs) -> Tensor:
        """Run the searches and return their results; see :meth:`BallAttack.find_candidates`."""
        engine = self.build_engine(inputs)
        self.run_searches(engine, inputs.threat)
        return self.select_candidates(engine, inputs.threat)

    def build_engine(self, inputs: AttackInputs) -> Engine:
        """Build the engine; the search for an image ends with its first confirmed success."""
        return Engine.from_inputs(inputs)

    @abstractmethod
    def run_searches(self, engine: Engine, threat: ThreatModel) -> None:
        """Run the attack's searches on the engine, one after another."""

    def select_candidates(self, engine: Engine, threat: ThreatModel) -> Tensor:  # noqa: ARG002 - for subclasses
        """Return the candidates, (N, C, H, W): the best point of each image."""
        return engine.points
