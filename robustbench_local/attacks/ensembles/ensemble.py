"""Ensembles: attacks in sequence, each on the images that all earlier attacks failed on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from robustbench_local.attacks.base import AttackInputs
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.engine_attack import EngineAttack
from robustbench_local.attacks.core.search import Search
from robustbench_local.attacks.core.target_ranking import rank_targets
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.stochastic import passes_per_query
from robustbench_local.errors import ModelError, UnreachableError
from robustbench_local.threats.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One attack of an ensemble."""

    name: str
    """Name in results."""
    build_search: Callable[[ThreatModel], Search[Any]]
    """Builds its search."""
    restarts: int = 1
    """Paths per image, each on the images without a success so far."""
    targets: int = 0
    """Maximum target classes per image, all at once; 0: no target classes."""
    uses_gradients: bool = True
    """Whether it needs gradients."""
    build_classifier: Callable[[Classifier], Classifier] | None = None
    """Builds the classifier that the stage queries, from the model: same answers, other gradients. None: the
    model itself."""
    first_restart: int = 0
    """Index of its first path; later ones draw other random numbers."""


class Ensemble(EngineAttack):
    """Stages on one engine: an image with a confirmed success skips all later stages."""

    refills_batches: ClassVar[bool] = True

    @abstractmethod
    def build_stages(self, threat: ThreatModel, num_classes: int) -> tuple[Stage, ...]:
        """Return the stages in order, cheap and strong ones first.

        Args:
            threat: Budget and goal.
            num_classes: K; some losses need 3 or 4 classes.
        """

    def build_engine(self, inputs: AttackInputs) -> Engine:
        """See :meth:`EngineAttack.build_engine`; a stochastic wrapper is not averaged again."""
        averages_itself = passes_per_query(inputs.classifier)[0] > 1
        return Engine.from_inputs(inputs, eot_samples=1 if averages_itself else self.eot_samples)

    def run_searches(self, engine: Engine, threat: ThreatModel) -> None:
        """Run the stages in order, until every image is finished."""
        stages = self.build_stages(threat, engine.classifier.num_classes)
        most = max(stage.targets for stage in stages)
        ranked: Tensor | None = None
        for stage in stages:
            if bool(engine.finished.all()):
                break
            if stage.targets and ranked is None:
                ranked = rank_targets(engine, threat, most)
            before = engine.finished.clone()
            targets = None if ranked is None or not stage.targets else ranked[:, : stage.targets]
            _run_stage(engine, stage, threat, targets)
            engine.classifier.record_stage((engine.finished & ~before).nonzero().flatten(), stage.name)

    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Return the cost of an image that survives all stages, with ten or more classes."""
        if threat.eps == 0:
            return (0, 0)
        forward = backward = 0
        stages = self.build_stages(threat, num_classes=10)
        for stage in stages:
            search = stage.build_search(threat)
            steps, forward_steps = search.steps, search.steps + 1 + search.lookahead_budget
            paths = stage.restarts * max(1, min(stage.targets, len(threat.targets) or stage.targets))
            forward += paths * forward_steps * self.eot_samples
            backward += paths * steps * self.eot_samples * stage.uses_gradients
        return forward + any(stage.targets for stage in stages), backward


def _run_stage(engine: Engine, stage: Stage, threat: ThreatModel, targets: Tensor | None) -> None:
    """Run a stage; one whose gradients are not the model's own is left out, with a note, where it fails."""
    model = engine.classifier
    try:
        with engine.use_classifier(stage.build_classifier(model) if stage.build_classifier else model):
            for restart in range(stage.first_restart, stage.first_restart + stage.restarts):
                engine.run(stage.build_search(threat), engine.build_items(restart, targets=targets))
    except ModelError as failure:
        if stage.build_classifier is None or isinstance(failure, UnreachableError):
            raise
        model.add_note(f"the step '{stage.name}' of the attack could not be completed: {failure.what}")
