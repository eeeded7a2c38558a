"""Ensembles: attacks one after another, each on the images that the ones before left standing."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from robustbench_local.attacks.base import Attack, required_masks
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.search import Search
from robustbench_local.attacks.core.target_ranking import ranked_targets
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.stochastic import draws_of
from robustbench_local.randomness import Stream
from robustbench_local.threats.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One attack of an ensemble."""

    name: str
    """What it is called in results."""
    search: Callable[[ThreatModel], Search[Any]]
    """Makes its search."""
    restarts: int = 1
    """Paths, each on what the one before left standing."""
    targets: int = 0
    """Most classes that each image is steered for, all at once; 0: it is steered for none."""
    backward: bool = True
    """Whether it needs gradients."""


class Ensemble(Attack):
    """Stages on one engine: an image that falls is spared all that follows."""

    refills: ClassVar[bool] = True

    @abstractmethod
    def stages(self, threat: ThreatModel, num_classes: int) -> tuple[Stage, ...]:
        """The stages in their order, cheap and strong ones first.

        Args:
            threat: Budget and goal.
            num_classes: K; some losses need 3 or 4 classes.
        """

    def perturb(
        self,
        classifier: Classifier,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        stream: Stream,
        masks: Tensor | None = None,
    ) -> Tensor:
        """Run the stages; see :meth:`Attack.perturb`."""
        masks = required_masks(threat, masks)
        if len(images) == 0 or threat.eps == 0:
            return images.clone()
        draws = self.looks if draws_of(classifier)[0] == 1 else 1  # its own mean would come back every time
        engine = Engine(classifier, images, labels, stream, masks, draws=draws)
        stages = self.stages(threat, classifier.num_classes)
        most = max(stage.targets for stage in stages)
        ranked: Tensor | None = None
        for stage in stages:
            if bool(engine.found.all()):
                break
            if stage.targets and ranked is None:
                ranked = ranked_targets(engine, threat, most)
            before = engine.found.clone()
            targets = None if ranked is None or not stage.targets else ranked[:, : stage.targets]
            for restart in range(stage.restarts):
                engine.run(stage.search(threat), engine.items(restart, targets=targets))
            classifier.name_stage((engine.found & ~before).nonzero().flatten(), stage.name)
        return engine.points

    def cost(self, threat: ThreatModel) -> tuple[int, int]:
        """The most that an image costs which survives everything, with ten or more classes."""
        if threat.eps == 0:
            return (0, 0)
        forward = backward = 0
        stages = self.stages(threat, num_classes=10)
        for stage in stages:
            search = stage.search(threat)
            steps, looks = search.steps, search.steps + 1 + search.spare
            paths = stage.restarts * max(1, min(stage.targets, len(threat.targets) or stage.targets))
            forward += paths * looks * self.looks
            backward += paths * steps * self.looks * stage.backward
        return forward + any(stage.targets for stage in stages), backward
