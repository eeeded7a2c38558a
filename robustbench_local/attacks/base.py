"""The interface of an attack: hyperparameters, declared capabilities, and ``perturb``."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from dataclasses import MISSING, Field, dataclass, fields
from importlib import import_module
from typing import Any, ClassVar, Literal, final

from torch import Tensor

from robustbench_local.classifier import Access, Classifier
from robustbench_local.config.hyperparameters import suggest_parameter
from robustbench_local.errors import ConfigError, ThreatError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.threat_model import ThreatModel

_ACCESS_ORDER: tuple[Access, ...] = ("labels", "scores", "gradients")
_CALL_OPTIONS = ("norm", "eps", "epsilon", "epsilons", "targets", "sources", "seed", "device", "batch_size")
"""What belongs to the call of an attack and not to its hyper-parameters."""
_ATTACKS_BY_ACCESS: dict[Access, str] = {"labels": "hopskipjump or boundary", "scores": "square or spsa"}
"""Attacks for a model that gives no more."""

Knowledge = Literal["white-box", "scores", "labels", "transfer", "naive"]
"""What the attacker sees of the classifier; ``"transfer"``: nothing, only of another one; ``"naive"``: all
but its defense."""
Measure = Literal["ball", "distance", "views"]


class AttackType(ABCMeta):
    """The metaclass of attacks: an unknown parameter raises an error of one line."""

    def __call__(cls, *values: Any, **parameters: Any) -> Any:
        """Make an attack.

        Raises:
            ConfigError: If a parameter is unknown, or given without its name.
        """
        known = [parameter.name for parameter in fields(cls)]  # type: ignore[arg-type]  # dataclasses, all of them
        unknown = [name for name in parameters if name not in known]
        if not values and not unknown:
            return super().__call__(**parameters)
        call = f'{cls.__name__}(...)(classifier, images, labels, norm="Linf", eps="8/255")'
        if values:
            raise ConfigError(
                f"{cls.__name__} takes its parameters by name", remedy=f"give the model to the call: {call}"
            )
        remedy = suggest_parameter(unknown[0], known)
        if unknown[0] in _CALL_OPTIONS:
            remedy = f"give it to the call: {call}"
        raise ConfigError(f"{cls.__name__} has no parameter {unknown[0]!r}", remedy=remedy)


@dataclass(frozen=True)
class AttackInputs:
    """The arguments of ``perturb``."""

    classifier: Classifier
    images: Tensor
    labels: Tensor
    threat: ThreatModel
    stream: RandomStream
    masks: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Attack(metaclass=AttackType):
    """A frozen set of hyperparameters; ``repr`` is the whole configuration.

    An attack is called with a classifier, images and labels, and returns adversarial examples:

        >>> import robustbench_local as rbl
        >>> classifier = rbl.load_classifier("zoo:signs-plain")
        >>> data = rbl.load_dataset("signs", limit=4)
        >>> pgd = rbl.PGD(steps=3)
        >>> adversarial, success = pgd(classifier, data.images, data.labels, norm="Linf", eps="8/255")
        >>> adversarial.shape == data.images.shape
        True

    A subclass is a frozen, keyword-only dataclass that declares its capabilities and implements ``perturb``.
    It proposes candidates; the harness (evaluation/harness/verify.py) verifies them.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"Linf", "L2"})
    """Norms it can respect."""
    goals: ClassVar[frozenset[str]] = frozenset({"untargeted", "targeted"})
    """Goals it can pursue; ``targeted`` means any set of targets unless ``check_support`` says
    otherwise."""
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

    def __call__(self, classifier: Any, images: Any, labels: Any, **options: Any) -> Any:
        """Adversarial examples for some images; see :func:`robustbench_local.attack`.

        Args:
            classifier: A classifier or a network.
            images: (N, C, H, W) in [0, 1].
            labels: True classes, (N,).
            **options: The threat model, ``norm`` and ``eps``, and what else that function takes.

        Returns:
            ``AdversarialExamples(images, success)``.
        """
        # looked up when it is called: the package's front door lies floors above the attacks
        package = import_module(__name__.partition(".")[0])
        return package.attack(classifier, images, labels, self, **options)

    def __str__(self) -> str:
        """The name with the parameters that differ from their defaults; ``repr`` has all of them."""
        changed = [
            f"{parameter.name}={value!r}"
            for parameter in fields(self)
            if (value := getattr(self, parameter.name)) != _get_default(parameter)
        ]
        return f"{type(self).__name__}({', '.join(changed)})"

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
            which the harness applies itself; see ``threats/transformations.py``.
        """

    @abstractmethod
    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Forward and backward passes an image at most, for the plan.

        Args:
            threat: The threat model; no attack spends anything at eps 0.

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
            given = classifier.access
            raise ConfigError(
                f"{name} needs {self.access}, the model {classifier.name!r} gives {given} only",
                remedy=f"use an attack that needs {given} only: {_ATTACKS_BY_ACCESS[given]}",
            )

    def list_warnings(self, threat: ThreatModel) -> list[str]:  # noqa: ARG002 - for subclasses
        """What is allowed but probably not meant, one line each."""
        return []

    def describe_caveats(self, classifier: Classifier, threat: ThreatModel) -> str:  # noqa: ARG002 - for subclasses
        """The one line that a reader of the results has to know, or nothing."""
        return ""


def _get_default(parameter: Field[Any]) -> Any:
    """A field's default value; `MISSING` if it has none."""
    return parameter.default if parameter.default_factory is MISSING else parameter.default_factory()


@dataclass(frozen=True, kw_only=True)
class BallAttack(Attack):
    """An attack inside an Lp ball around each image; a subclass implements ``find_candidates``."""

    @final
    def perturb(
        self,
        classifier: Classifier,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        stream: RandomStream,
        masks: Tensor | None = None,
    ) -> Tensor:
        """See :meth:`Attack.perturb`; the images themselves where there are none or the ball is a point."""
        masks = require_masks(threat, masks)
        if len(images) == 0 or threat.eps == 0:
            return images.clone()
        return self.find_candidates(AttackInputs(classifier, images, labels, threat, stream, masks))

    @abstractmethod
    def find_candidates(self, inputs: AttackInputs) -> Tensor:
        """The candidates that ``perturb`` returns.

        Args:
            inputs: What ``perturb`` was given: at least one image, an eps above 0, and the masks only where
                the threat's region is ``"mask"``.
        """


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
