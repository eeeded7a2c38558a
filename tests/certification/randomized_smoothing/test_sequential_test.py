"""Stopping early at the same error: the evidence is an e-process, and simulation finds no claim too many."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom

from robustbench_local.certification.randomized_smoothing.sequential_test import (
    LOOK_GROWTH_FACTOR,
    SequentialVoteTest,
    ShareClaim,
    compute_log_evidence,
)
from robustbench_local.statistics import compute_lower_bounds

RUNS = 20_000


def carry_out(shares: np.ndarray, seed: int, **options: float) -> tuple[SequentialVoteTest, np.ndarray]:
    """A poll on images whose votes fall on their class with the given probabilities; votes of each."""
    rng = np.random.default_rng(seed)
    poll, spent = SequentialVoteTest(len(shares), **options), np.zeros(len(shares))
    while len(poll.open_rows):
        spent[poll.open_rows] += poll.next_vote_count
        poll.add_votes(rng.binomial(poll.next_vote_count, shares[poll.open_rows]))
    return poll, spent


def at_most(alpha: float, runs: int) -> float:
    """What a rate of alpha shows at most, four standard deviations of binomial noise aside."""
    return alpha + 4 * math.sqrt(alpha * (1 - alpha) / runs)


@pytest.mark.parametrize("votes", [1, 7, 60])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.98])
def test_evidence_is_a_fair_bet_at_the_border_and_a_losing_one_below(votes, share):
    hits = np.arange(votes + 1)
    wealth = np.exp(compute_log_evidence(hits, votes, share))
    assert binom.pmf(hits, votes, share) @ wealth == pytest.approx(1.0, rel=1e-9)
    for below in (0.0, 0.3 * share, 0.95 * share):
        assert binom.pmf(hits, votes, below) @ wealth <= 1.0


def test_evidence_is_the_mixture_of_likelihood_ratios():
    hits, votes, share = 45, 48, 0.84

    def ratio(p: float) -> float:
        return (p / share) ** hits * ((1 - p) / (1 - share)) ** (votes - hits)

    mixture = quad(ratio, share, 1)[0] / (1 - share)
    assert np.exp(compute_log_evidence(np.array([hits]), votes, share))[0] == pytest.approx(
        mixture / 2, rel=1e-8
    )
    all_hits = np.exp(compute_log_evidence(np.array([votes]), votes, share))[0]
    assert all_hits > 0.5 * share**-votes  # the half that bets on every vote


def test_evidence_stands_where_probabilities_underflow():
    found = compute_log_evidence(np.array([0, 50_000, 100_000]), 100_000, 0.9)
    assert found[0] == -np.inf
    assert found[1] == -np.inf
    assert found[2] == pytest.approx(-100_000 * math.log(0.9), rel=1e-3)


@pytest.mark.parametrize(("share", "most"), [(0.5, 100), (0.977, 1000), (0.9999, 50)])
def test_needed_is_the_fewest_hits_that_prove_it(share, most):
    claim = ShareClaim(share=share, max_votes=most, alpha=0.002)
    enough = compute_lower_bounds(np.arange(most + 1), most, 0.001) >= share
    assert claim.min_hits == (int(np.argmax(enough)) if enough.any() else most + 1)


@pytest.mark.parametrize(("share", "true"), [(0.5, 0.4999), (0.84, 0.8399), (0.977, 0.9769), (0.977, 0.5)])
def test_no_more_than_alpha_is_claimed_wrongly(share, true):
    alpha = 0.02
    poll, _ = carry_out(np.full(RUNS, true), 0, share=share, max_votes=400, alpha=alpha)
    wrong = poll.has_share | (poll.has_majority & (true < 0.5))
    assert wrong.mean() <= at_most(alpha, RUNS)
    assert poll.has_majority.mean() > 0.95 or true <= 0.5


def test_at_the_border_the_error_is_spent_not_saved():
    """A test that never claims anything would pass the one above."""
    poll, _ = carry_out(np.full(RUNS, 0.84), 1, share=0.84, max_votes=400, alpha=0.02)
    assert 0.002 < poll.has_share.mean() <= at_most(0.02, RUNS)


def test_clear_cases_are_decided_with_few_votes_and_the_same_answer():
    shares = np.repeat([0.5, 0.7, 0.95, 0.999, 1.0], 400)
    poll, spent = carry_out(shares, 2, share=0.8413, max_votes=10_000, alpha=0.001)
    assert (poll.has_share == (shares > 0.84)).all()
    assert spent.mean() < 10_000 / 40
    assert spent[-1] == poll_at_once(0.8413, 0.001)


def poll_at_once(share: float, alpha: float) -> int:
    """Votes until the first look at which nothing but hits prove it."""
    votes = 16
    while votes * -math.log(share) + math.log(0.5) < math.log(2 / alpha):
        votes = math.ceil(votes * LOOK_GROWTH_FACTOR)
    return votes


def test_an_image_that_would_be_proven_is_hardly_ever_given_up():
    alpha = 0.01
    claim = ShareClaim(share=0.84, max_votes=1000, alpha=alpha)
    shares = np.full(RUNS, claim.min_hits / claim.max_votes)
    rng = np.random.default_rng(3)
    hits, votes, given_up = np.zeros(RUNS, dtype=np.int64), 0, np.zeros(RUNS, dtype=bool)
    while votes < 800:
        hits, votes = hits + rng.binomial(20, shares), votes + 20
        given_up |= claim.is_hopeless(hits, votes)
    assert given_up.mean() <= at_most(alpha, RUNS)


def test_what_cannot_be_proven_any_more_is_not_asked():
    claim = ShareClaim(share=0.99, max_votes=400, alpha=0.01)
    spare = claim.max_votes - claim.min_hits
    assert not claim.is_hopeless(np.array([100 - spare]), 100)[0]
    assert claim.is_hopeless(np.array([100 - spare - 1]), 100)[0]
    assert ShareClaim(share=0.9999, max_votes=50, alpha=0.01).is_hopeless(np.array([16]), 16).all()


def test_a_claim_once_made_stands():
    """Votes that turn after the claim would be cherry-picked the other way round."""
    poll = SequentialVoteTest(1, share=0.5, max_votes=200, alpha=0.01)
    assert poll.next_vote_count == 16
    poll.add_votes(np.array([16]))
    assert poll.has_majority.all()
    assert poll.has_share.all()
    assert len(poll.open_rows) == 0
