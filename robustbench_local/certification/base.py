"""The interface of a certificate: hyperparameters, declared capabilities, and ``certify``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from robustbench_local.classifier import Classifier
from robustbench_local.errors import ThreatError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.threat_model import ThreatModel

ABSTAINED = -1
"""In the tensors of a batch only: no prediction. Records and the Python API say None."""

Concern = Literal["model", "smoothed"]
"""``"model"``: the verdict is about the classifier itself. ``"smoothed"``: about the majority vote of the
classifier under noise, which is another classifier."""


@dataclass(frozen=True, kw_only=True)
class CertifiedBatch:
    """The certified results of a batch; all tensors are (N,), on the CPU."""

    predictions: Tensor
    """int64: the class that the verdict is about; ``ABSTAINED`` where there is none."""
    verified: Tensor
    """Boolean: the prediction is the label, and no point of the threat model's ball changes it."""
    radius: Tensor
    """float64: the prediction holds within this distance, in the threat's norm; 0 where nothing is proven,
    NaN where the method says only yes or no."""
    margins: Tensor
    """float64: lower bound of the label's margin over the whole ball; NaN where the method has none."""

    @property
    def abstained(self) -> Tensor:
        """(N,) boolean: where there is no prediction."""
        return self.predictions == ABSTAINED


@dataclass(frozen=True, kw_only=True)
class Certificate(ABC):
    """A frozen set of hyperparameters; ``repr`` is the whole configuration.

    A subclass is a frozen, keyword-only dataclass that declares its capabilities and implements ``certify``.
    Unlike an attack's success, a certificate is checked by nothing but the attacks themselves. A certified
    image with a successful attack inside its radius is a bug, and the report stops at it.
    """

    norms: ClassVar[frozenset[str]]
    """Norms in which it can prove something."""
    measure: ClassVar[Literal["certificate"]] = "certificate"
    """What its cells measure; see ``Attack.measure`` for those of attacks."""

    @property
    def error_probability(self) -> float:
        """Largest probability, for each image, that its verdict claims too much; 0 for a proof."""
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
        """Prove what can be proven about some images.

        Args:
            classifier: What :meth:`get_base_classifier` gave, inside ``classifier.evaluation_mode()``. Pass
                ``rows`` to it whenever the images it is given are not the first ones, so that passes are
                counted for the right image.
            images: (N, C, H, W) in [0, 1], on the classifier's device; left untouched.
            labels: True classes, (N,).
            threat: The ball that is asked about.
            stream: The only source of randomness, one stream an image.

        Returns:
            A verdict an image, which depends on no other image of the batch.
        """

    @abstractmethod
    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Forward and backward passes an image at most, for the plan.

        Args:
            threat: The ball that is asked about.

        Returns:
            (forward, backward).
        """

    def check_support(self, threat: ThreatModel, classifier: Classifier) -> None:  # noqa: ARG002 - for subclasses
        """Find out before any work whether the certificate can be had.

        Args:
            threat: The ball that is asked about.
            classifier: What the certificate starts from.

        Raises:
            ThreatError: If the norm, goal or region is not supported.
            ModelError: If the classifier does not give what the method needs, such as a known layer.
            ConfigError: If hyper-parameters do not fit the classifier.
        """
        name = type(self).__name__
        if threat.norm not in self.norms:
            remedy = f"use {' or '.join(sorted(self.norms))}, or another certificate"
            raise ThreatError(f"{name} proves nothing in the norm {threat.norm!r}", remedy=remedy)
        if threat.targets or threat.region != "image":
            what = "a target" if threat.targets else "a mask"
            raise ThreatError(f"{name} does not know {what}", remedy="ask about the whole ball, untargeted")

    def get_base_classifier(self, classifier: Classifier) -> Classifier:
        """What is asked in order to certify a classifier, by default itself; its passes are counted."""
        return classifier

    def get_concern(self, classifier: Classifier) -> Concern:  # noqa: ARG002 - for subclasses
        """What the verdicts are about when this classifier is given."""
        return "model"

    def list_warnings(self, threat: ThreatModel) -> list[str]:  # noqa: ARG002 - for subclasses
        """What is allowed but probably not meant, one line each."""
        return []

    def describe_caveats(self) -> str:
        """The one line that a reader of the results has to know, or nothing."""
        return ""
