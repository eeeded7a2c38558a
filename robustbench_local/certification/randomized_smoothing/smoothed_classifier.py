"""The smoothed classifier: the majority vote under Gaussian noise on the image."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.stochastic import DEFAULT_DRAWS, DEFAULT_VERDICT_DRAWS, RandomizedClassifier
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import RandomNumbers


class SmoothedClassifier(RandomizedClassifier):
    """The majority vote of a classifier under Gaussian noise, estimated from ``votes`` draws.

    The noise is added to the pixels, before any preprocessing, and noisy images are not clamped to [0, 1]: a
    certificate holds for exactly this noise.

    An attack sees the logarithm of the mean softmax over ``draws`` draws, and its gradient. A verdict is the
    vote of ``votes`` draws that belong to the image. The "logits" of a verdict are the shares of the votes,
    so that a tie is not a correct prediction, and its margin is a difference of shares.

    Args:
        inner: The wrapped classifier.
        sigma: Standard deviation of the noise in pixel units of [0, 1], above 0.
        draws: Draws averaged per evaluation of an attack.
        votes: Draws counted for a verdict.

    Raises:
        ConfigError: If sigma is not above 0, or the wrapped classifier is itself stochastic.

    Source: Cohen et al. 2019, arXiv:1902.02918, section 3; attacked as in Salman et al. 2019,
        arXiv:1906.04584, section 2.2.
    """

    answers_with_one_draw: ClassVar[bool] = False

    def __init__(
        self,
        inner: Classifier,
        *,
        sigma: float,
        draws: int = DEFAULT_DRAWS,
        votes: int = DEFAULT_VERDICT_DRAWS,
    ) -> None:
        check_sigma(sigma)
        check_deterministic(inner)
        super().__init__(inner, draws=draws, verdict_draws=votes)
        self.sigma = sigma

    @property
    def identity(self) -> str:
        """Sigma, and the numbers of draws."""
        return f"smoothed with sigma {self.sigma!r}, {self.draws} and {self.verdict_draws} draws"

    def sample(self, images: Tensor, numbers: RandomNumbers) -> Tensor:
        """See :meth:`RandomizedClassifier.sample`."""
        return self.inner(images + self.sigma * numbers.sample_normal(images.shape[1:]))

    def pool_samples(self, samples: Tensor) -> Tensor:
        """Return the shares of the votes for a verdict, otherwise the log of the mean softmax."""
        if self._verdict_stream is not None or self.access == "labels":
            return compute_vote_shares(samples)
        # a class without probability in any draw has a very small logarithm, which must not become minus
        # infinity
        return samples.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(samples))


def compute_vote_shares(samples: Tensor) -> Tensor:
    """Compute each class's share of the votes, (N, K), of logits, (D, N, K); NaN if one is not finite."""
    votes = one_hot(samples.argmax(dim=2), samples.shape[2]).float().mean(dim=0)
    finite = torch.isfinite(samples).all(dim=2).all(dim=0)
    return votes.masked_fill(~finite[:, None], torch.nan)


def check_sigma(sigma: float) -> None:
    """Refuse a sigma that is not positive and finite.

    Raises:
        ConfigError: If sigma is not above 0 and finite.
    """
    if not 0 < sigma < float("inf"):
        raise ConfigError(f"sigma must be above 0 and finite, got {sigma}")


def check_deterministic(classifier: Classifier) -> None:
    """Refuse to count votes of a stochastic classifier, whose every vote would be a mean over draws.

    Raises:
        ConfigError: If the classifier is stochastic.
    """
    if isinstance(classifier, RandomizedClassifier):
        raise ConfigError("is stochastic and cannot be smoothed", where=classifier.name)
