"""What an attack is: hyper-parameters, declared capabilities, and ``perturb``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from robustbench_local.classifier import Access, Classifier
from robustbench_local.errors import ConfigError, ThreatError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.threat_model import ThreatModel

_ACCESS_ORDER: tuple[Access, ...] = ("labels", "scores", "gradients")
_ATTACKS_BY_ACCESS: dict[Access, str] = {"labels": "hopskipjump or boundary", "scores": "square or spsa"}
"""Attacks for a model that gives no more."""

Knowledge = Literal["white-box", "scores", "labels", "transfer", "naive"]
"""What the attacker sees of the classifier; ``"transfer"``: nothing, only of another one; ``"naive"``: all
but its defense."""
Measure = Literal["ball", "distance", "views"]


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """A frozen set of hyper-parameters; ``repr`` is the whole configuration.

    A subclass is a frozen, keyword-only dataclass that declares what it can do and writes ``perturb``. It
    proposes; the harness (evaluation/verify.py) judges.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"Linf", "L2"})
    """Norms it can respect."""
    goals: ClassVar[frozenset[str]] = frozenset({"untargeted", "targeted"})
    """Goals it can pursue; ``targeted`` means any set of targets unless ``check`` says otherwise."""
    regions: ClassVar[frozenset[str]] = frozenset({"image"})
    """Regions it can stay in."""
    access: ClassVar[Access] = "gradients"
    """What it needs of the classifier."""
    per_image: ClassVar[bool] = True
    """Whether an image's result is independent of its batch. If not, the harness hands over fixed groups."""
    uses_engine: ClassVar[bool] = False
    """Whether it runs on the engine, which never gives the classifier more than its batch size at a time,
    however many images are handed over."""
    group_size: ClassVar[int] = 128
    """Size of those groups for images of 32 px, in the order of the data set; fewer of larger images."""
    measure: ClassVar[Measure] = "ball"
    """``"ball"``: any success inside the ball ends the search. ``"distance"``: it looks for the nearest
    success, so that robust accuracy can be read off at every radius up to the threat model's. ``"views"``:
    one object for many views of an image, judged over other views."""

    @property
    def knowledge(self) -> Knowledge:
        """What it sees of the classifier."""
        return "white-box" if self.access == "gradients" else self.access

    @property
    def queries(self) -> int | None:
        """Most forward passes it may spend on an image, enforced by the classifier; None: no such limit."""
        return None

    @property
    def eot_samples(self) -> int:
        """Passes that are averaged for one look, for models that draw random numbers in their forward.

        A :class:`~robustbench_local.classifier.stochastic.RandomizedClassifier` averages itself and is looked
        at once.
        """
        return 1

    @abstractmethod
    def perturb(
        self,
        classifier: Classifier,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        stream: RandomStream,
        masks: Tensor | None = None,
    ) -> Tensor:
        """Propose adversarial images.

        Args:
            classifier: Inside ``classifier.evaluation_mode()``. Pass ``rows`` to it whenever the images it is
                given are not the first ones, so that passes are counted for the right image.
            images: (N, C, H, W) in [0, 1], on the classifier's device; left untouched.
            labels: True classes, (N,).
            threat: Budget, goal and region.
            stream: The only source of randomness, one stream an image.
            masks: (N, 1, H, W) boolean, where the threat's region is ``"mask"``.

        Returns:
            Candidates, same shape and dtype: inside [0, 1] and within ``threat.eps`` of ``images``. Where no
            norm bounds the change (``spatial``, ``corruption``): the transformation's parameters, (N, P),
            which the harness applies itself; see ``transformation.py``.
        """

    @abstractmethod
    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Forward and backward passes an image at most, for the plan.

        Args:
            threat: The threat model; no attack spends anything at ``eps`` 0.

        Returns:
            (forward, backward).
        """

    def check_support(self, threat: ThreatModel, classifier: Classifier) -> None:
        """Find out before any work whether the attack can run.

        Args:
            threat: Budget, goal and region.
            classifier: What is to be attacked.

        Raises:
            ThreatError: If the attack does not support the norm, goal or region, or a target does not exist.
            ConfigError: If the classifier gives less access than the attack needs.
        """
        name = type(self).__name__
        for what, value, supported in (
            ("norm", threat.norm, self.norms),
            ("goal", threat.goal, self.goals),
            ("region", threat.region, self.regions),
        ):
            if value not in supported:
                remedy = f"use {' or '.join(sorted(supported))}, or another attack"
                raise ThreatError(f"{name} does not support the {what} {value!r}", remedy=remedy)
        if threat.targets and threat.targets[-1] >= classifier.num_classes:
            count = classifier.num_classes
            raise ThreatError(
                f"target class {threat.targets[-1]} does not exist: the model has {count} classes"
            )
        if _ACCESS_ORDER.index(classifier.access) < _ACCESS_ORDER.index(self.access):
            raise ConfigError(
                f"{name} needs {self.access}, the model {classifier.name!r} gives {classifier.access} only",
                remedy=f"use an attack that needs {classifier.access} only: {_ATTACKS_BY_ACCESS[classifier.access]}",
            )

    def list_warnings(self, threat: ThreatModel) -> list[str]:  # noqa: ARG002 - for subclasses
        """What is allowed but probably not meant, one line each."""
        return []

    def describe_caveats(self, classifier: Classifier, threat: ThreatModel) -> str:  # noqa: ARG002 - for subclasses
        """The one line that a reader of the results has to know, or nothing."""
        return ""


def require_masks(threat: ThreatModel, masks: Tensor | None) -> Tensor | None:
    """The masks if the threat's region is ``"mask"``, otherwise None.

    Raises:
        ThreatError: If they are needed and missing.
    """
    if threat.region == "image":
        return None
    if masks is None:
        raise ThreatError("the region is 'mask', but the images have no masks", remedy="use data with masks")
    return masks
