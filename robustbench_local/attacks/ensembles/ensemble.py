"""Ensembles: attacks in sequence, each on the images that all earlier attacks failed on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from robustbench_local.attacks.base import AttackInputs, BallAttack
from robustbench_local.attacks.core.attack_stage import run_attack
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.engine_attack import EngineAttack
from robustbench_local.attacks.core.expectation import count_confirmation_passes
from robustbench_local.attacks.core.search import Search
from robustbench_local.attacks.core.target_ranking import rank_targets
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.stochastic import averages_draws
from robustbench_local.errors import ModelError, UnreachableError
from robustbench_local.threats.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One attack of an ensemble."""

    name: str
    """Name in results."""
    build_search: Callable[[ThreatModel], Search[Any]] | None = None
    """Builds its search; None for a whole attack."""
    attack: BallAttack | None = None
    """A whole attack in place of a search, with one run for each restart."""
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
    draws: int = 0
    """Passes averaged per evaluation; 0: the attack's `eot_samples`."""
    forward_factor: int = 1
    """Forward passes per gradient: 2 where another pass than that of the answer gives it."""


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
        averages_itself = averages_draws(inputs.classifier)
        return Engine.from_inputs(inputs, eot_samples=1 if averages_itself else self.eot_samples)

    def run_searches(self, engine: Engine, threat: ThreatModel) -> None:
        """Run the stages in order, until every image is finished."""
        stages = [
            stage
            for stage in self.build_stages(threat, engine.classifier.num_classes)
            if engine.classifier.access == "gradients" or not stage.uses_gradients or stage.build_classifier
        ]
        most = max((stage.targets for stage in stages), default=0)
        ranked: Tensor | None = None
        for stage in stages:
            if bool(engine.finished.all()):
                break
            before = engine.find_successes()
            with engine.use_draws(stage.draws or engine.eot_samples):
                if stage.targets and ranked is None:
                    ranked = rank_targets(engine, threat, most)
                targets = None if ranked is None or not stage.targets else ranked[:, : stage.targets]
                _run_stage(engine, stage, threat, targets)
            engine.classifier.record_stage(
                (engine.find_successes() & ~before).nonzero().flatten(), stage.name
            )

    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Return the cost of an image that survives all stages, with ten or more classes."""
        return self.estimate_stages(self.build_stages(threat, num_classes=10), threat)

    def estimate_cost_on(self, classifier: Classifier, threat: ThreatModel) -> tuple[int, int]:
        """See :meth:`Attack.estimate_cost_on`; a stochastic wrapper's successes need no further draws."""
        averages_itself = averages_draws(classifier)
        return self.estimate_stages(
            self.build_stages(threat, num_classes=10), threat, judges_draws=not averages_itself
        )

    def estimate_stages(
        self, stages: Sequence[Stage], threat: ThreatModel, *, judges_draws: bool = True
    ) -> tuple[int, int]:
        """Return the maximum forward and backward passes of an image in these stages.

        Args:
            stages: The stages.
            threat: Budget and goal.
            judges_draws: Whether further draws confirm successes where an evaluation averages over several.
        """
        if threat.eps == 0:
            return (0, 0)
        forward = backward = 0
        for stage in stages:
            if stage.attack is not None:
                forward += stage.restarts * (stage.attack.estimate_cost(threat)[0] + 2)
                continue
            search = stage.build_search(threat)  # type: ignore[misc]  # a stage is a search or an attack
            steps, forward_steps = search.steps, search.steps + 1 + search.lookahead_budget
            paths = stage.restarts * max(1, min(stage.targets, len(threat.targets) or stage.targets))
            draws, blind_steps = stage.draws or self.eot_samples, 0 if stage.uses_gradients else steps
            forward_steps += (stage.forward_factor - 1) * steps
            forward += paths * (
                forward_steps * draws + judges_draws * count_confirmation_passes(draws, blind_steps)
            )
            backward += paths * steps * draws * stage.uses_gradients
        ranking_draws = max((stage.draws or self.eot_samples for stage in stages if stage.targets), default=0)
        return forward + ranking_draws, backward


def _run_stage(engine: Engine, stage: Stage, threat: ThreatModel, targets: Tensor | None) -> None:
    """Run a stage; one whose gradients are not the model's own is left out, with a note, where it fails."""
    model, restarts = engine.classifier, range(stage.first_restart, stage.first_restart + stage.restarts)
    try:
        with engine.use_classifier(stage.build_classifier(model) if stage.build_classifier else model):
            for restart in restarts:
                if stage.build_search is not None:
                    engine.run(stage.build_search(threat), engine.build_items(restart, targets=targets))
                elif stage.attack is not None:
                    run_attack(engine, stage.attack, threat, stage.name, restart)
    except ModelError as failure:
        if stage.build_classifier is None or isinstance(failure, UnreachableError):
            raise
        model.add_note(f"the step '{stage.name}' of the attack could not be completed: {failure.what}")
