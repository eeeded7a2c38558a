"""The interface of a certificate: hyperparameters, declared capabilities, and ``certify``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from robustbench_local.classifier import Classifier
from robustbench_local.errors import ModelError, ThreatError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.threat_model import ThreatModel

ABSTAINED = -1
"""No prediction, in the tensors of a batch only; records and the Python API use None."""

Concern = Literal["model", "smoothed"]
"""``"model"``: the verdict is about the classifier itself. ``"smoothed"``: it is about the classifier's
majority vote under noise."""


@dataclass(frozen=True, kw_only=True)
class CertifiedBatch:
    """The certified results of a batch; all tensors are (N,), on the CPU."""

    predictions: Tensor
    """int64: the certified class; ``ABSTAINED`` if there is none."""
    verified: Tensor
    """Boolean: the prediction is the label, and no point of the threat model's ball changes it."""
    radius: Tensor
    """float64: radius within which the prediction is constant, in the threat model's norm; 0 without a
    certificate, NaN if the method gives only yes or no."""
    margins: Tensor
    """float64: lower bound of the label's margin over the whole ball; NaN if the method has none."""

    @property
    def abstained(self) -> Tensor:
        """Images without a prediction, (N,) boolean."""
        return self.predictions == ABSTAINED


@dataclass(frozen=True, kw_only=True)
class Certificate(ABC):
    """A frozen set of hyperparameters; ``repr`` is the whole configuration.

    A subclass is a frozen, keyword-only dataclass that declares its capabilities and implements ``certify``.
    Unlike an attack's success, a certificate is checked by nothing but the attacks themselves. A certified
    image with a successful attack inside its radius is a bug, and the report stops at it.
    """

    norms: ClassVar[frozenset[str]]
    """Supported norms."""
    measure: ClassVar[Literal["certificate"]] = "certificate"
    """Measure of its cells; see ``Attack.measure`` for those of attacks."""

    @property
    def error_probability(self) -> float:
        """Largest probability, for each image, of a wrong claim; 0 for a deterministic proof."""
        return 0.0

    @abstractmethod
    def certify(
        self,
        classifier: Classifier,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        stream: RandomStream,
    ) -> CertifiedBatch:
        """Certify a batch of images.

        Args:
            classifier: Result of :meth:`get_base_classifier`, inside ``classifier.evaluation_mode()``. Pass
                ``rows`` to it whenever its images are not the first ones, so that passes are counted for the
                right image.
            images: (N, C, H, W) in [0, 1], on the classifier's device; not modified.
            labels: True classes, (N,).
            threat: The ball to certify.
            stream: The only source of randomness, one stream per image.

        Returns:
            One verdict per image, independent of the other images of the batch.
        """

    @abstractmethod
    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Return the maximum forward and backward passes per image, for the plan.

        Args:
            threat: The ball to certify.

        Returns:
            (forward, backward).
        """

    def estimate_work(self, threat: ThreatModel) -> int:
        """Return the number of forward passes that take as long as one image; by default those it may take.

        Args:
            threat: The ball to certify.
        """
        return sum(self.estimate_cost(threat))

    def check_support(self, threat: ThreatModel, classifier: Classifier) -> None:
        """Check before any work that the classifier can be certified.

        Args:
            threat: The ball to certify.
            classifier: The classifier to certify.

        Raises:
            ThreatError: If the norm, goal or region is not supported.
            ModelError: If the classifier lacks what the method needs, such as supported layers.
            ConfigError: If hyperparameters do not fit the classifier.
        """
        name = type(self).__name__
        if classifier.abstention is not None:
            raise ModelError(
                f"may reject images, and {name} certifies only models that never do", where=classifier.name
            )
        if threat.norm not in self.norms:
            remedy = f"use {' or '.join(sorted(self.norms))}, or another certificate"
            raise ThreatError(f"{name} does not support the norm {threat.norm!r}", remedy=remedy)
        if threat.targets or threat.region != "image":
            unsupported = "a target" if threat.targets else "a mask"
            raise ThreatError(
                f"{name} does not support {unsupported}", remedy="certify the whole ball, untargeted"
            )

    def get_base_classifier(self, classifier: Classifier) -> Classifier:
        """Return the classifier to query for a certificate, by default itself; its passes are counted."""
        return classifier

    def get_concern(self, classifier: Classifier) -> Concern:  # noqa: ARG002 - for subclasses
        """Return the subject of the verdicts for this classifier."""
        return "model"

    def list_warnings(self, threat: ThreatModel) -> list[str]:  # noqa: ARG002 - for subclasses
        """Return warnings about allowed but probably unintended settings, one line each."""
        return []

    def describe_caveats(self) -> str:
        """Return one line of caveats for a reader of the results, or an empty string."""
        return ""
