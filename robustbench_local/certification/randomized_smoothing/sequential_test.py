"""A sequential test of a lower bound on a share of votes, for many images at once.

The votes of an image arrive in batches, and the test looks at them after each batch. The evidence against
"the share is smaller" is the wealth of a gambler who starts with 1 and bets on each vote at the odds of the
largest share that would make the claim false. If the claim is false, the wealth reaches ``1/alpha`` with
probability at most alpha, for any number of looks (Ville's inequality). Half of the money bets that all votes
are hits, half on a share drawn uniformly from those that make the claim true. Votes that reach the last look
are also tested with the Clopper-Pearson bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.special import betaincc, betaln

from robustbench_local.statistics import compute_lower_bounds

Counts = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

FIRST_LOOK_VOTES = 16
LOOK_GROWTH_FACTOR = 1.15
"""Ratio of the votes at consecutive looks; surplus votes stay below 15%."""


@dataclass(frozen=True, kw_only=True)
class ShareClaim:
    """The claim that a share is at least ``share``, to be decided with at most ``max_votes`` votes.

    Half of ``alpha`` is spent on the intermediate looks, half on the last look.
    """

    share: float
    """In (0, 1)."""
    max_votes: int
    """Votes at the last look."""
    alpha: float
    """Largest probability that the claim is made although the share is smaller."""

    def is_proven(self, hits: Counts, votes: int) -> Flags:
        """Return whether the votes so far prove the claim; a proven claim stays proven.

        Args:
            hits: How many votes were for the class, (N,).
            votes: How many there were, the same for all.
        """
        made = compute_log_evidence(hits, votes, self.share) >= -math.log(self.alpha / 2)
        if votes < self.max_votes:
            return made
        return made | (compute_lower_bounds(hits, votes, self.alpha / 2) >= self.share)

    def is_hopeless(self, hits: Counts, votes: int) -> Flags:
        """Return whether more votes cannot prove the claim, or almost certainly would not.

        Stopping claims nothing and costs none of ``alpha``. An image whose share would be enough at the last
        look is stopped with probability at most alpha.

        Args:
            hits: How many votes were for the class, (N,).
            votes: How many there were, the same for all.
        """
        out_of_reach = hits + (self.max_votes - votes) < self.min_hits
        if self.min_hits >= self.max_votes:  # a single miss rules out the claim, or no vote can prove it
            return out_of_reach
        against = _compute_log_mixture(votes - hits, votes, 1 - self.min_hits / self.max_votes)
        return out_of_reach | (against >= -math.log(self.alpha))

    @cached_property
    def min_hits(self) -> int:
        """Smallest number of hits that proves the claim at the last look; above ``max_votes`` if none."""
        low, high = 0, self.max_votes + 1
        while low < high:
            middle = (low + high) // 2
            if compute_lower_bounds(middle, self.max_votes, self.alpha / 2) >= self.share:
                high = middle
            else:
                low = middle + 1
        return low


class SequentialVoteTest:
    """Tests, for many images, that the majority's share is above one half and that it is at least ``share``.

    The test of an image ends when the second claim is proven or can no longer be proven. Both claims together
    have an error probability of at most alpha: the second is only made with the first, which it implies.

    Args:
        count: Number of images.
        share: Share to prove, in [0.5, 1).
        max_votes: Maximum votes per image.
        alpha: Error probability, for each image.

    Attributes:
        open_rows: Images that need more votes, ascending, (M,).
        vote_count: Number of votes of each of those images so far.
        has_majority: (count,): whether more than half of all possible votes are proven to be for the class.
        has_share: (count,): whether the share is proven to be at least ``share``.
    """

    def __init__(self, count: int, *, share: float, max_votes: int, alpha: float) -> None:
        self._majority_claim = ShareClaim(share=0.5, max_votes=max_votes, alpha=alpha)
        self._share_claim = ShareClaim(share=share, max_votes=max_votes, alpha=alpha)
        self._hits = np.zeros(count, dtype=np.int64)
        self.open_rows = np.arange(count)
        self.vote_count = 0
        self.has_majority, self.has_share = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)

    @property
    def next_vote_count(self) -> int:
        """Votes until the next look, for each open image."""
        most = self._share_claim.max_votes
        return (
            min(max(FIRST_LOOK_VOTES, math.ceil(self.vote_count * LOOK_GROWTH_FACTOR)), most)
            - self.vote_count
        )

    def add_votes(self, fresh: Counts) -> None:
        """Add votes and close the images that are decided.

        Args:
            fresh: Number of the ``next_vote_count`` votes of each open image for its class, (M,).
        """
        self.vote_count += self.next_vote_count
        self._hits[self.open_rows] += fresh
        hits = self._hits[self.open_rows]
        self.has_majority[self.open_rows] |= self._majority_claim.is_proven(hits, self.vote_count)
        self.has_share[self.open_rows] |= self.has_majority[self.open_rows] & self._share_claim.is_proven(
            hits, self.vote_count
        )
        over = self.has_share[self.open_rows] | self._share_claim.is_hopeless(hits, self.vote_count)
        self.open_rows = self.open_rows[~over if self.vote_count < self._share_claim.max_votes else []]


def compute_log_evidence(hits: Counts, votes: int, share: float) -> Floats:
    """Compute the log evidence for a share of at least ``share``: an e-process of every smaller share.

    Args:
        hits: Votes for the class, (N,).
        votes: Total number of votes.
        share: In (0, 1).

    Source: Ville 1939; mixtures of likelihood ratios after Robbins 1970, doi:10.1214/aoms/1177696786.
    """
    sure = np.where(hits == votes, -votes * math.log(share), -np.inf)
    return np.logaddexp(sure, _compute_log_mixture(hits, votes, share)) - math.log(2)


def _compute_log_mixture(hits: Counts, votes: int, share: float) -> Floats:
    """Compute the log of the mean likelihood over shares above ``share``, relative to ``share``."""
    hits, places = np.unique(hits, return_inverse=True)  # many images share few distinct counts
    misses = votes - hits
    with np.errstate(divide="ignore"):  # zero likelihood is no evidence
        mean = betaln(hits + 1, misses + 1) + np.log(betaincc(hits + 1, misses + 1, share))
    at_border = hits * math.log(share) + misses * math.log1p(-share)
    return np.asarray(mean - math.log1p(-share) - at_border, dtype=np.float64)[places]
