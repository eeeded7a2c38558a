"""Randomized smoothing: an L2 radius in which the majority vote is constant, with high probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy.special import betainc, ndtr, ndtri
from torch import Tensor

from robustbench_local.certification.base import ABSTAINED, Certificate, CertifiedBatch, Concern
from robustbench_local.certification.randomized_smoothing.sequential_test import SequentialVoteTest
from robustbench_local.certification.randomized_smoothing.smoothed_classifier import (
    SmoothedClassifier,
    check_deterministic,
    check_sigma,
)
from robustbench_local.certification.randomized_smoothing.votes import VoteCounter
from robustbench_local.classifier import Classifier
from robustbench_local.errors import ConfigError, ThreatError
from robustbench_local.randomness import RandomStream
from robustbench_local.statistics import compute_lower_bounds
from robustbench_local.threats.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class Smoothing(Certificate):
    """Randomized smoothing: an L2 radius for the majority vote of a classifier under Gaussian noise.

    Guarantee: let g(x) be the class with the most votes of the classifier when noise N(0, sigma^2) is added
    to x. For each image separately, with probability at least 1 - alpha over the noise drawn, both claims
    hold if they are made: g(x) is the prediction, and g is constant on the L2 ball of the radius around x (in
    all of space, not only [0, 1]). The radius is sigma * Phi^-1(p), with p a lower confidence bound of the
    share of votes for the prediction. The guarantee is about g, not about the classifier under the noise. Of
    n images, alpha * n claims may on average be wrong.

    ``n0`` votes select the class, and ``n`` other votes bound its share (Clopper-Pearson). With
    ``sequential`` only the threat model's radius is tested: votes are counted until it is proven or can no
    longer be proven, up to ``n``, at the same alpha; the certified radius is then the threat model's radius
    or 0.

    Args:
        sigma: Standard deviation of the noise in pixel units of [0, 1], above 0.
        n0: Votes that select the class.
        n: Maximum votes that bound its share.
        alpha: Error probability, for each image, in (0, 0.5).
        sequential: Whether to stop as soon as the threat model's radius is decided.

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
    def error_probability(self) -> float:
        """Error probability, alpha."""
        return self.alpha

    def certify(
        self,
        classifier: Classifier,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        stream: RandomStream,
    ) -> CertifiedBatch:
        """Count votes; see :meth:`Certificate.certify`."""
        voter = VoteCounter(classifier, images, self.sigma, stream)
        all_rows = torch.arange(len(images))
        chosen = voter.count_votes(all_rows, 0, self.n0).argmax(dim=1)
        rows = all_rows[chosen < classifier.num_classes]  # no prediction if most logits were not finite
        predictions = torch.full((len(images),), ABSTAINED)
        radius = torch.zeros(len(images), dtype=torch.float64)
        if len(rows):
            count = self._count_until_decided if self.sequential else self._count_all_votes
            is_proven, radius[rows] = count(voter, rows, chosen[rows], threat)
            predictions[rows[is_proven]] = chosen[rows[is_proven]]
        return CertifiedBatch(
            predictions=predictions,
            verified=(predictions == labels.cpu()) & (radius >= threat.eps),
            radius=radius,
            margins=torch.full_like(radius, torch.nan),
        )

    def predict(self, classifier: Classifier, images: Tensor, stream: RandomStream) -> list[int | None]:
        """Return the predictions of the smoothed classifier, with ``n`` votes.

        Args:
            classifier: Result of :meth:`get_base_classifier`, inside ``classifier.evaluation_mode()``.
            images: (N, C, H, W) in [0, 1], on the classifier's device.
            stream: The images' random numbers.

        Returns:
            A class for each image, which is wrong (not the class with the most of all possible votes) with
            probability at most alpha; None if the votes are not decisive.

        Source: Cohen et al. 2019, section 3.2.1, after Hung and Fithian 2019.
        """
        votes = VoteCounter(classifier, images, self.sigma, stream).count_votes(
            torch.arange(len(images)), 0, self.n
        )
        (first, second), best = votes.topk(2, dim=1).values.numpy().T, votes.argmax(dim=1)
        doubt = 2 * betainc(first, second + 1, 0.5)  # p-value of so few votes for the second class
        sure = torch.from_numpy(doubt <= self.alpha) & (best < classifier.num_classes)
        return [
            class_index if is_proven else None
            for class_index, is_proven in zip(best.tolist(), sure.tolist(), strict=True)
        ]

    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:  # noqa: ARG002 - the most it can be
        """Return all votes; a sequential count usually needs far fewer."""
        return self.n0 + self.n, 0

    def check_support(self, threat: ThreatModel, classifier: Classifier) -> None:
        """See :meth:`Certificate.check_support`; also refuses a radius that no votes could prove."""
        super().check_support(threat, classifier)
        if self.largest_radius < threat.eps:
            at_most = f"prove a radius of at most {self.largest_radius:.4g}, not {threat.eps:g}"
            raise ThreatError(
                f"{self.n} votes under noise of sigma {self.sigma:g} {at_most}",
                remedy="raise n or sigma, or ask for a smaller eps",
            )
        if isinstance(classifier, SmoothedClassifier) and classifier.sigma != self.sigma:
            raise ConfigError(
                f"is smoothed with sigma {classifier.sigma:g}, the certificate is for sigma {self.sigma:g}",
                where=classifier.name,
                remedy="use the same sigma",
            )
        check_deterministic(self.get_base_classifier(classifier))

    def get_base_classifier(self, classifier: Classifier) -> Classifier:
        """Return the classifier that votes: the wrapped one, if it is already smoothed."""
        return classifier.inner if isinstance(classifier, SmoothedClassifier) else classifier

    def get_concern(self, classifier: Classifier) -> Concern:
        """Return the classifier itself as the subject only if it is smoothed."""
        return "model" if isinstance(classifier, SmoothedClassifier) else "smoothed"

    def describe_caveats(self) -> str:
        """Describe the subject of the guarantee."""
        stops = ", stopping as soon as the radius is decided" if self.sequential else ""
        return (
            f"holds for the majority vote under Gaussian noise of sigma {self.sigma:g}, for each image with "
            f"probability {1 - self.alpha:.6g}; up to {self.n:,} votes an image{stops}"
        )

    @property
    def largest_radius(self) -> float:
        """Radius certified by a unanimous vote."""
        alpha = self.alpha / 2 if self.sequential else self.alpha
        return self.sigma * float(ndtri(compute_lower_bounds(self.n, self.n, alpha)))

    def _count_all_votes(
        self, voter: VoteCounter, rows: Tensor, chosen: Tensor, threat: ThreatModel
    ) -> tuple[Tensor, Tensor]:
        """Return the images with a proven majority, (M,), and the radius of each, float64."""
        del threat  # the votes give the radius, independent of the threat model's eps
        hits = voter.count_votes(rows, self.n0, self.n).gather(1, chosen[:, None]).squeeze(1)
        share = compute_lower_bounds(hits.numpy(), self.n, self.alpha)
        radius = torch.from_numpy(self.sigma * ndtri(share)).clamp_min(0)
        return torch.from_numpy(share > 0.5), radius

    def _count_until_decided(
        self, voter: VoteCounter, rows: Tensor, chosen: Tensor, threat: ThreatModel
    ) -> tuple[Tensor, Tensor]:
        """Return the images with a proven majority, (M,), and the threat model's radius where proven."""
        share = float(ndtr(threat.eps / self.sigma))
        poll = SequentialVoteTest(len(rows), share=share, max_votes=self.n, alpha=self.alpha)
        while len(poll.open_rows):
            open_rows = torch.from_numpy(poll.open_rows)
            votes = voter.count_votes(rows[open_rows], self.n0 + poll.vote_count, poll.next_vote_count)
            poll.add_votes(votes.gather(1, chosen[open_rows, None]).squeeze(1).numpy())
        radius = torch.from_numpy(np.where(poll.has_share, threat.eps, 0.0))
        return torch.from_numpy(poll.has_majority), radius
