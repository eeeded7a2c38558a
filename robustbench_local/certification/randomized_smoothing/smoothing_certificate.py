"""Randomized smoothing: what most votes under noise say holds in a ball, with high probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy.special import betainc, ndtr, ndtri
from torch import Tensor

from robustbench_local.certification.base import ABSTAINED, Certificate, Certified, Concern
from robustbench_local.certification.randomized_smoothing.sequential_test import Poll
from robustbench_local.certification.randomized_smoothing.smoothed_classifier import (
    SmoothedClassifier,
    check_sigma,
    check_steady,
)
from robustbench_local.certification.randomized_smoothing.votes import Voter
from robustbench_local.classifier import Classifier
from robustbench_local.errors import ConfigError, ThreatError
from robustbench_local.randomness import Stream
from robustbench_local.statistics import least_share
from robustbench_local.threats.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class Smoothing(Certificate):
    """Randomized smoothing: an L2 radius for the majority vote of a classifier under Gaussian noise.

    The guarantee: let g(x) be the class that most votes of the classifier fall on when noise N(0, sigma^2)
    is added to x. For each image on its own, with probability at least 1 - alpha over the noise that is
    drawn, both hold if they are claimed: g(x) is the prediction, and g is constant on the L2 ball of the
    radius around x (over all of space, not only [0, 1]). The radius is sigma * Phi^-1(p), p a lower
    confidence bound of the share of votes for the prediction. It is a statement about g, not about the
    classifier under the noise, and of n images alpha * n may on average be claimed wrongly.

    One class is chosen by ``n0`` votes and its share bounded by ``n`` others (Clopper and Pearson). With
    ``sequential`` only the threat's radius is asked about: votes are counted until it is proven or hopeless,
    up to ``n``, at the same alpha; the radius that comes back is then the threat's or 0.

    Args:
        sigma: Standard deviation of the noise in pixel units of [0, 1], above 0.
        n0: Votes that choose the class.
        n: Votes that bound its share, at most.
        alpha: Probability, for each image, of claiming too much, in (0, 0.5).
        sequential: Whether to stop as soon as the threat's radius is decided.

    Raises:
        ConfigError: If a number is out of range.

    Source: Cohen et al. 2019, arXiv:1902.02918, theorem 1 and section 3.2 (predict and certify).
    """

    norms: ClassVar[frozenset[str]] = frozenset({"L2"})

    sigma: float = 0.25
    n0: int = 100
    n: int = 10_000
    alpha: float = 0.001
    sequential: bool = False

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        if self.n0 < 1 or self.n < 1:
            raise ConfigError(f"smoothing needs at least 1 vote each, got n0 {self.n0} and n {self.n}")
        if not 0 < self.alpha < 0.5:
            raise ConfigError(f"smoothing's alpha must lie between 0 and 0.5, got {self.alpha}")

    @property
    def error(self) -> float:
        """Alpha."""
        return self.alpha

    def certify(
        self, classifier: Classifier, images: Tensor, labels: Tensor, threat: ThreatModel, stream: Stream
    ) -> Certified:
        """Count votes; see :meth:`Certificate.certify`."""
        voter = Voter(classifier, images, self.sigma, stream)
        everyone = torch.arange(len(images))
        chosen = voter.votes(everyone, 0, self.n0).argmax(dim=1)
        rows = everyone[chosen < classifier.num_classes]  # most answers were not finite: no prediction
        predictions = torch.full((len(images),), ABSTAINED)
        radius = torch.zeros(len(images), dtype=torch.float64)
        if len(rows):
            count = self._until_decided if self.sequential else self._all_votes
            known, radius[rows] = count(voter, rows, chosen[rows], threat)
            predictions[rows[known]] = chosen[rows[known]]
        return Certified(
            predictions=predictions,
            verified=(predictions == labels.cpu()) & (radius >= threat.eps),
            radius=radius,
            margins=torch.full_like(radius, torch.nan),
        )

    def predict(self, classifier: Classifier, images: Tensor, stream: Stream) -> list[int | None]:
        """What the smoothed classifier says, with ``n`` votes.

        Args:
            classifier: What :meth:`base` gave, inside ``classifier.attacked()``.
            images: (N, C, H, W) in [0, 1], on the classifier's device.
            stream: The images' random numbers.

        Returns:
            A class for each image, which is wrong (not the class that most of all possible votes fall on)
            with probability at most alpha; None where the votes do not tell.

        Source: Cohen et al. 2019, section 3.2.1, after Hung and Fithian 2019.
        """
        votes = Voter(classifier, images, self.sigma, stream).votes(torch.arange(len(images)), 0, self.n)
        (first, second), best = votes.topk(2, dim=1).values.numpy().T, votes.argmax(dim=1)
        doubt = 2 * betainc(first, second + 1, 0.5)  # that so few of both would fall on the second by chance
        sure = torch.from_numpy(doubt <= self.alpha) & (best < classifier.num_classes)
        return [one if known else None for one, known in zip(best.tolist(), sure.tolist(), strict=True)]

    def cost(self, threat: ThreatModel) -> tuple[int, int]:  # noqa: ARG002 - the most it can be
        """All votes; a sequential count mostly needs far fewer."""
        return self.n0 + self.n, 0

    def check(self, threat: ThreatModel, classifier: Classifier) -> None:
        """See :meth:`Certificate.check`; also refuses a radius that no votes could prove."""
        super().check(threat, classifier)
        if self.largest_radius < threat.eps:
            at_most = f"prove a radius of at most {self.largest_radius:.4g}, not {threat.eps:g}"
            raise ThreatError(
                f"{self.n} votes under noise of sigma {self.sigma:g} {at_most}",
                remedy="raise n or sigma, or ask for a smaller eps",
            )
        if isinstance(classifier, SmoothedClassifier) and classifier.sigma != self.sigma:
            raise ConfigError(
                f"is smoothed with sigma {classifier.sigma:g}, the certificate speaks of {self.sigma:g}",
                where=classifier.name,
                remedy="use the same sigma",
            )
        check_steady(self.base(classifier))

    def base(self, classifier: Classifier) -> Classifier:
        """The classifier that votes: the one within, if it is smoothed already."""
        return classifier.inner if isinstance(classifier, SmoothedClassifier) else classifier

    def concerns(self, classifier: Classifier) -> Concern:
        """The classifier itself only if it is smoothed."""
        return "model" if isinstance(classifier, SmoothedClassifier) else "smoothed"

    def note(self) -> str:
        """What the guarantee is about."""
        stops = ", stopping as soon as the radius is decided" if self.sequential else ""
        return (
            f"holds for the majority vote under Gaussian noise of sigma {self.sigma:g}, for each image with "
            f"probability {1 - self.alpha:.6g}; up to {self.n:,} votes an image{stops}"
        )

    @property
    def largest_radius(self) -> float:
        """What would be proven if all votes agreed."""
        alpha = self.alpha / 2 if self.sequential else self.alpha
        return self.sigma * float(ndtri(least_share(self.n, self.n, alpha)))

    def _all_votes(
        self, voter: Voter, rows: Tensor, chosen: Tensor, threat: ThreatModel
    ) -> tuple[Tensor, Tensor]:
        """Whose majority is proven, (M,), and the radius of each, float64."""
        del threat  # the radius is what the votes say, whatever was asked
        hits = voter.votes(rows, self.n0, self.n).gather(1, chosen[:, None]).squeeze(1)
        share = least_share(hits.numpy(), self.n, self.alpha)
        radius = torch.from_numpy(self.sigma * ndtri(share)).clamp_min(0)
        return torch.from_numpy(share > 0.5), radius

    def _until_decided(
        self, voter: Voter, rows: Tensor, chosen: Tensor, threat: ThreatModel
    ) -> tuple[Tensor, Tensor]:
        """Whose majority is proven, (M,), and the threat's radius where that is."""
        share = float(ndtr(threat.eps / self.sigma))
        poll = Poll(len(rows), share=share, most=self.n, alpha=self.alpha)
        while len(poll.open):
            asked = torch.from_numpy(poll.open)
            votes = voter.votes(rows[asked], self.n0 + poll.votes, poll.wanted)
            poll.look(votes.gather(1, chosen[asked, None]).squeeze(1).numpy())
        radius = torch.from_numpy(np.where(poll.reached, threat.eps, 0.0))
        return torch.from_numpy(poll.majority), radius
