"""The interface of an attack: hyperparameters, declared capabilities, and ``perturb``."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from importlib import import_module
from typing import Any, ClassVar, Literal, final

from torch import Tensor

from robustbench_local.classifier import Access, Classifier
from robustbench_local.config.hyperparameters import suggest_parameter
from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import ConfigError, ThreatError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.threat_model import ThreatModel

_ACCESS_ORDER: tuple[Access, ...] = ("labels", "scores", "gradients")
_CALL_OPTIONS = ("norm", "eps", "epsilon", "epsilons", "targets", "sources", "seed", "device", "batch_size")
"""Arguments of an attack's call that are not hyperparameters."""
_ATTACKS_BY_ACCESS: dict[Access, str] = {"labels": "hopskipjump or boundary", "scores": "square or spsa"}
"""Attacks for a model with limited access."""

Knowledge = Literal["white-box", "scores", "labels", "transfer", "naive"]
"""Access of the attacker to the classifier; ``"transfer"``: none, only to a surrogate; ``"naive"``: full,
except to its defense."""
Measure = Literal["ball", "distance", "views"]


class AttackType(ABCMeta):
    """The metaclass of attacks: an unknown parameter raises an error of one line."""

    def __call__(cls, *values: Any, **parameters: Any) -> Any:
        """Make an attack.

        Raises:
            ConfigError: If a parameter is unknown, or given without its name.
        """
        field_names = [parameter.name for parameter in fields(cls)]  # type: ignore[arg-type]  # every attack is a dataclass
        unknown = [name for name in parameters if name not in field_names]
        if not values and not unknown:
            return super().__call__(**parameters)
        call = f'{cls.__name__}(...)(classifier, images, labels, norm="Linf", eps="8/255")'
        if values:
            raise ConfigError(
                f"{cls.__name__} takes its parameters by name", remedy=f"give the model to the call: {call}"
            )
        remedy = suggest_parameter(unknown[0], field_names)
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
    """Supported norms."""
    goals: ClassVar[frozenset[str]] = frozenset({"untargeted", "targeted"})
    """Supported goals; ``targeted`` means any set of targets unless ``check_support`` says otherwise."""
    regions: ClassVar[frozenset[str]] = frozenset({"image"})
    """Supported regions."""
    access: ClassVar[Access] = "gradients"
    """Access to the classifier that it needs."""
    per_image: ClassVar[bool] = True
    """Whether an image's result is independent of its batch. If not, the harness passes fixed groups."""
    refills_batches: ClassVar[bool] = False
    """Whether it takes several batches of images at once and keeps each pass full as images leave; the others
    get one batch at a time. Only these may search in bf16."""
    group_size: ClassVar[int] = 128
    """Size of those groups for images of 32 px, in the order of the data set; smaller for larger images."""
    measure: ClassVar[Measure] = "ball"
    """``"ball"``: any success inside the ball ends the search. ``"distance"``: the attack searches for the
    nearest success, which gives robust accuracy at every radius up to the threat model's. ``"views"``: one
    object for many views of an image, evaluated on other views."""
    adapts: ClassVar[bool] = False
    """Whether ``adapt`` reads the model before the first batch of a cell."""

    def __call__(self, classifier: Any, images: Any, labels: Any, **options: Any) -> Any:
        """Generate adversarial examples for a batch of images; see :func:`robustbench_local.attack`.

        Args:
            classifier: A classifier or a network.
            images: (N, C, H, W) in [0, 1].
            labels: True classes, (N,).
            **options: The threat model, ``norm`` and ``eps``, and other arguments of that function.

        Returns:
            ``AdversarialExamples(images, success)``.
        """
        # imported at call time: the package's public functions depend on the attacks
        package = import_module(__name__.partition(".")[0])
        return package.attack(classifier, images, labels, self, **options)

    def __str__(self) -> str:
        """Return the name with the parameters that differ from their defaults; ``repr`` has all of them."""
        changed = [
            f"{parameter.name}={value!r}"
            for parameter in fields(self)
            if (value := getattr(self, parameter.name)) != _get_default(parameter)
        ]
        return f"{type(self).__name__}({', '.join(changed)})"

    @property
    def knowledge(self) -> Knowledge:
        """Access of the attacker to the classifier."""
        return "white-box" if self.access == "gradients" else self.access

    def get_knowledge_of(self, classifier: Classifier) -> Knowledge:
        """Return the access of the attacker to a classifier, which may give less than the attack can use."""
        access = limit_access(self.access, classifier.access)
        return "white-box" if access == "gradients" else access

    @property
    def queries(self) -> int | None:
        """Maximum forward passes per image, enforced by the classifier; None means no limit."""
        return None

    @property
    def eot_samples(self) -> int:
        """Passes averaged per evaluation, for models whose forward pass is random.

        A :class:`~robustbench_local.classifier.stochastic.RandomizedClassifier` averages by itself and is
        evaluated once.
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
        """Propose adversarial examples.

        Args:
            classifier: Inside ``classifier.evaluation_mode()``. Pass ``rows`` to it whenever its images are
                not the first ones, so that passes are counted for the right image.
            images: (N, C, H, W) in [0, 1], on the classifier's device; not modified.
            labels: True classes, (N,).
            threat: Budget, goal and region.
            stream: The only source of randomness, one stream per image.
            masks: (N, 1, H, W) boolean, if the threat model's region is ``"mask"``.

        Returns:
            Candidates, same shape and dtype: inside [0, 1] and within ``threat.eps`` of ``images``. Without a
            norm (``spatial``, ``corruption``): the transformation's parameters, (N, P), which the harness
            applies itself; see ``threats/transformations.py``.
        """

    def adapt(
        self,
        classifier: Classifier,  # noqa: ARG002 - for subclasses
        images: Tensor,  # noqa: ARG002
        labels: Tensor,  # noqa: ARG002
        threat: ThreatModel,  # noqa: ARG002
        stream: RandomStream,  # noqa: ARG002
        masks: Tensor | None = None,  # noqa: ARG002
    ) -> Attack:
        """Return this attack adapted to the model; the harness calls it once before the batches of a cell.

        An adapted attack has the ``repr`` of the original: what it found does not change its identity.

        Args:
            classifier: Inside ``classifier.evaluation_mode()``.
            images: (N, C, H, W) in [0, 1]: the first correctly classified images of the cell; N may be 0.
            labels: True classes, (N,).
            threat: Budget, goal and region.
            stream: The only source of randomness, one stream per image.
            masks: (N, 1, H, W) boolean, if the threat model's region is ``"mask"``.
        """
        return self

    def describe_adaptation(self) -> dict[str, Any]:
        """Describe what ``adapt`` found, as JSON values from which ``restore_adaptation`` rebuilds it."""
        return {}

    def restore_adaptation(self, description: Mapping[str, Any]) -> Attack:  # noqa: ARG002 - for subclasses
        """Return the attack that ``adapt`` returned, from its description."""
        return self

    @abstractmethod
    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Return the maximum forward and backward passes per image, for the plan.

        Args:
            threat: The threat model; at eps 0 every attack costs nothing.

        Returns:
            (forward, backward).
        """

    def check_support(self, threat: ThreatModel, classifier: Classifier) -> None:
        """Check before any work that the attack can run.

        Args:
            threat: Budget, goal and region.
            classifier: The classifier to attack.

        Raises:
            ThreatError: If the attack does not support the norm, goal or region, or a target does not exist.
            ConfigError: If the classifier gives less access than the attack needs.
        """
        name = type(self).__name__
        for subject, value, supported in (
            ("norm", threat.norm, self.norms),
            ("goal", threat.goal, self.goals),
            ("region", threat.region, self.regions),
        ):
            if value not in supported:
                remedy = f"use {' or '.join(sorted(supported))}, or another attack"
                raise ThreatError(f"{name} does not support the {subject} {value!r}", remedy=remedy)
        if threat.targets and threat.targets[-1] >= classifier.num_classes:
            count = classifier.num_classes
            raise ThreatError(
                f"target class {threat.targets[-1]} does not exist: the model has "
                f"{format_count(count, 'class')}"
            )
        # an attack that reads the model first does with what there is
        if not self.adapts and limit_access(self.access, classifier.access) != self.access:
            model_access = classifier.access
            raise ConfigError(
                f"{name} needs {self.access}, the model {classifier.name!r} gives {model_access} only",
                remedy=f"use an attack that needs {model_access} only: {_ATTACKS_BY_ACCESS[model_access]}",
            )

    def list_warnings(self, threat: ThreatModel) -> list[str]:  # noqa: ARG002 - for subclasses
        """Return warnings about allowed but probably unintended settings, one line each."""
        return []

    def estimate_cost_on(self, classifier: Classifier, threat: ThreatModel) -> tuple[int, int]:  # noqa: ARG002 - for subclasses
        """Return `estimate_cost`, for an attack that does otherwise on a model of less access."""
        return self.estimate_cost(threat)

    def describe_caveats(self, classifier: Classifier, threat: ThreatModel) -> str:  # noqa: ARG002 - for subclasses
        """Return one line of caveats for a reader of the results, or an empty string."""
        return ""


def limit_access(wanted: Access, given: Access) -> Access:
    """Return the lesser of two accesses: that which an attack can use, and that which a model gives."""
    return min(wanted, given, key=_ACCESS_ORDER.index)


def _get_default(parameter: Field[Any]) -> Any:
    """Return a field's default value; `MISSING` if it has none."""
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
        """See :meth:`Attack.perturb`; returns the originals for an empty batch or at eps 0."""
        masks = require_masks(threat, masks)
        if len(images) == 0 or threat.eps == 0:
            return images.clone()
        return self.find_candidates(AttackInputs(classifier, images, labels, threat, stream, masks))

    @abstractmethod
    def find_candidates(self, inputs: AttackInputs) -> Tensor:
        """Find the candidates that ``perturb`` returns.

        Args:
            inputs: Arguments of ``perturb``: at least one image, an eps above 0, and masks only if the threat
                model's region is ``"mask"``.
        """


def require_masks(threat: ThreatModel, masks: Tensor | None) -> Tensor | None:
    """Return the masks if the threat model's region is ``"mask"``, otherwise None.

    Raises:
        ThreatError: If they are needed and missing.
    """
    if threat.region == "image":
        return None
    if masks is None:
        raise ThreatError("the region is 'mask', but the images have no masks", remedy="use data with masks")
    return masks
