"""The interface of wrapper defenses, which wrap a classifier and need no training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from robustbench_local.classifier import Classifier
from robustbench_local.defenses.wrappers.defended_classifiers import (
    DefendedClassifier,
    RandomlyDefendedClassifier,
)
from robustbench_local.randomness import RandomNumbers

GradientMode = Literal["exact", "bpda"]


@dataclass(frozen=True, kw_only=True)
class Wrapper(ABC):
    """A frozen set of parameters; ``repr`` is the whole configuration.

    It declares whether it is stochastic, and how gradients pass through it. A wrapper without a surrogate
    gradient blocks gradients, which is no evidence of robustness: its classifier gives scores only, and its
    results are reported as unverified.
    """

    is_random: ClassVar[bool] = False
    """Whether it is stochastic. If so, attacks average over 20 draws."""
    gradient_mode: ClassVar[GradientMode | None] = None
    """Gradients through it: ``"exact"``; ``"bpda"``: replaced by those of a smooth approximation (Athalye et
    al. 2018, arXiv:1802.00420); None: blocked."""

    @abstractmethod
    def wrap(self, classifier: Classifier) -> Classifier:
        """Return the classifier behind this defense; the given one is not changed.

        Args:
            classifier: Any classifier; access to scores or labels only stays limited.
        """


@dataclass(frozen=True, kw_only=True)
class FixedWrapper(Wrapper):
    """A wrapper that changes images deterministically."""

    @abstractmethod
    def transform_images(self, images: Tensor) -> Tensor:
        """Return the transformed images for the classifier.

        Args:
            images: (N, C, H, W), float32, in [0, 1]; not to be changed.

        Returns:
            Same shape, in [0, 1]. Differentiable if the wrapper has a surrogate.
        """

    def wrap(self, classifier: Classifier) -> Classifier:
        """See :meth:`Wrapper.wrap`."""
        return DefendedClassifier(
            classifier,
            self.transform_images,
            identity=repr(self),
            has_gradient=self.gradient_mode is not None,
            is_approximated=self.gradient_mode == "bpda",
        )


@dataclass(frozen=True, kw_only=True)
class RandomWrapper(Wrapper):
    """A wrapper that changes images at random."""

    is_random: ClassVar[bool] = True

    @abstractmethod
    def transform_images(self, images: Tensor, numbers: RandomNumbers) -> Tensor:
        """Return the transformed images for the classifier, in one draw.

        Args:
            images: (N, C, H, W), float32, in [0, 1]; not to be changed.
            numbers: The random numbers of this draw, one row per image; the only source of randomness.

        Returns:
            Same shape. Differentiable if the wrapper has a surrogate.
        """

    def wrap(self, classifier: Classifier) -> Classifier:
        """See :meth:`Wrapper.wrap`."""
        return RandomlyDefendedClassifier(
            classifier,
            self.transform_images,
            identity=repr(self),
            has_gradient=self.gradient_mode is not None,
            is_approximated=self.gradient_mode == "bpda",
        )
