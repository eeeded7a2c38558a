"""Common corruptions, drawn once for each image, without an adversary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from robustbench_local.attacks.base import Attack
from robustbench_local.classifier import Access, Classifier
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class Corruption(Attack):
    """The corruption that the threat model names, at its severity.

    There is no worst-case search, so the accuracy is that of an average case: the effect of weather, sensors
    and image processing. The harness corrupts the images itself; see ``threats/transformations.py``.

    Source: Hendrycks & Dietterich 2019, arXiv:1903.12261.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"corruption"})
    goals: ClassVar[frozenset[str]] = frozenset({"untargeted"})
    access: ClassVar[Access] = "labels"

    def perturb(
        self,
        classifier: Classifier,  # noqa: ARG002 - no queries
        images: Tensor,
        labels: Tensor,  # noqa: ARG002
        threat: ThreatModel,  # noqa: ARG002
        stream: RandomStream,  # noqa: ARG002
        masks: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Return no parameters, (N, 0): there is nothing to choose."""
        return images.new_zeros(len(images), 0)

    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:  # noqa: ARG002
        """Return no passes; only the harness evaluates the images."""
        return (0, 0)
