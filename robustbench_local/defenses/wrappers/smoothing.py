"""Randomized smoothing as a defense: the majority vote under Gaussian noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from robustbench_local.certification.randomized_smoothing.smoothed_classifier import (
    SmoothedClassifier,
    check_sigma,
)
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.stochastic import DEFAULT_DRAWS, DEFAULT_VERDICT_DRAWS
from robustbench_local.defenses.wrappers.base import GradientMode, Wrapper
from robustbench_local.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RandomizedSmoothing(Wrapper):
    """The majority vote over noisy copies of the image.

    Unlike other wrappers it can be certified: see `certification.randomized_smoothing`, whose guarantee is
    about the vote of all possible draws, estimated by ``votes`` draws.

    Args:
        sigma: Standard deviation of the noise in pixel units of [0, 1].
        votes: Draws counted for a verdict.
        draws: Draws averaged per evaluation of an attack.

    Raises:
        ConfigError: If a number is out of range.

    Source: Cohen et al. 2019, arXiv:1902.02918.
    """

    is_random: ClassVar[bool] = True
    gradient_mode: ClassVar[GradientMode | None] = "exact"

    sigma: float = 0.25
    votes: int = DEFAULT_VERDICT_DRAWS
    draws: int = DEFAULT_DRAWS

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        if self.votes < 1 or self.draws < 1:
            raise ConfigError(
                f"smoothing needs at least 1 vote and 1 draw, got {self.votes} and {self.draws}"
            )

    def wrap(self, classifier: Classifier) -> Classifier:
        """See :meth:`Wrapper.wrap`."""
        return SmoothedClassifier(classifier, sigma=self.sigma, draws=self.draws, votes=self.votes)
