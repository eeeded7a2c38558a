"""Success against a model whose answers vary by chance: in expectation over its draws, not in a lucky one.

A search over such a model tries thousands of points, so that one of them is misclassified in some draw even
where the model is robust. Every evaluation is therefore a mean over several draws, and a success ends a
search only when fresh draws confirm it.

Source: expectation over transformation, Athalye et al. 2018, arXiv:1707.07397, section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from robustbench_local.attacks.core.search import Search
from robustbench_local.attacks.core.work_items import ActiveSet, TensorTable
from robustbench_local.classifier import Classifier

CONFIRMATION_DRAWS = 50
"""Fresh draws that confirm or refute a success."""
MIN_SUCCESS_SHARE = 0.96
"""Share of the fresh draws that have to succeed for the search of an image to end: with 50 draws, the true
share is then above .84 (Clopper-Pearson, one-sided, 99%)."""
MAX_REFUTATIONS = 4
"""Refuted successes of an item after which only its last result is judged: this bounds the cost."""
STEPS_AFTER_REFUTATION = 8
"""Steps of an item from its first refuted success to the next one that is judged; they double each time."""
STEPS_BETWEEN_REFRESHES = 10
"""Steps after which a search without gradients evaluates its best points again: it keeps what is lucky."""
_MARGIN_WEIGHT = 0.01
"""Weight of the mean margin in the score of a point: it decides between equal shares."""


@dataclass(kw_only=True)
class DrawVerdicts(TensorTable):
    """What fresh draws have said about the successes of active items."""

    scores: Tensor
    """(W,): score of the best point if it is confirmed; see `judge_points`."""
    is_confirmed: Tensor
    """(W,) boolean."""
    refutations: Tensor
    """(W,) int64: number of refuted successes."""
    next_age: Tensor
    """(W,) int64, on the CPU: age from which the next success may be judged."""

    @classmethod
    def for_items(cls, items: ActiveSet) -> Self:
        """Return the verdicts of new items: none so far."""
        return cls(
            scores=torch.full_like(items.best_scores, -torch.inf),
            is_confirmed=torch.zeros_like(items.done),
            refutations=torch.zeros_like(items.rows),
            next_age=torch.zeros_like(items.age),
        )


def average_draws(answers: Sequence[Tensor]) -> Tensor:
    """Average logits over draws, each (N, K)."""
    return answers[0] if len(answers) == 1 else torch.stack(tuple(answers)).mean(dim=0)


def judge_points(search: Search[Any], classifier: Classifier, items: ActiveSet) -> tuple[Tensor, Tensor]:
    """Judge the best points of items by fresh draws.

    Args:
        search: Defines success.
        classifier: The model.
        items: The items.

    Returns:
        Share of the draws that succeed, (W,), and the score by which results compare, (W,): the share above
        one half, so that a positive one succeeds in most draws, and for equal shares the mean margin.
    """
    points = replace(items, points=items.best_points)
    successes = torch.zeros_like(items.best_scores)
    margins = torch.zeros_like(items.best_scores)
    for _ in range(CONFIRMATION_DRAWS):
        logits = classifier(points.points, points.rows)
        scores, _ = search.score_points(points, logits)
        low, high = logits.nan_to_num().aminmax(dim=1)
        successes += scores > 0
        margins += (scores / (high - low).clamp_min(1e-12)).nan_to_num(0.0).clamp(-1, 1)
    share, margin = successes / CONFIRMATION_DRAWS, margins / CONFIRMATION_DRAWS
    return share, share - 0.5 + _MARGIN_WEIGHT * margin


def confirm_by_draws(search: Search[Any], classifier: Classifier, items: ActiveSet) -> None:
    """Judge the successes of items by fresh draws; those that are refuted search on.

    Args:
        search: Defines success.
        classifier: The model.
        items: The items, with verdicts; ``done`` changes.
    """
    verdicts = _get_verdicts(items)
    may_claim = (items.age >= verdicts.next_age).to(items.done.device)
    items.done &= may_claim & (verdicts.refutations < MAX_REFUTATIONS)
    index = items.done.nonzero().flatten()
    if len(index) == 0:
        return
    shares, verdicts.scores[index] = judge_points(search, classifier, items.select_rows(index))
    is_confirmed = shares >= MIN_SUCCESS_SHARE
    items.done[index] = verdicts.is_confirmed[index] = is_confirmed
    verdicts.refutations[index] += ~is_confirmed
    places = index.to(verdicts.next_age.device)
    pause = STEPS_AFTER_REFUTATION * 2 ** (verdicts.refutations[index].to(places.device) - 1).clamp_min(0)
    verdicts.next_age[places] = items.age[places] + pause


def judge_results(search: Search[Any], classifier: Classifier, items: ActiveSet, leaving: Tensor) -> None:
    """Judge the best and the last point of ended items by fresh draws; the better one is the result.

    The best point was chosen by few draws, and may owe that to luck.

    Args:
        search: Defines success.
        classifier: The model.
        items: The items, with verdicts; ``done``, ``best_points`` and ``best_scores`` change.
        leaving: Index of the ended items, (L,) int64.
    """
    verdicts = _get_verdicts(items)
    index = leaving[~verdicts.is_confirmed[leaving]]
    if len(index):
        chosen = items.select_rows(index)
        shares, scores = judge_points(search, classifier, chosen)
        last_shares, last_scores = judge_points(
            search, classifier, replace(chosen, best_points=chosen.points)
        )
        is_last = last_scores > scores
        verdicts.scores[index] = torch.where(is_last, last_scores, scores)
        items.done[index] = torch.where(is_last, last_shares, shares) >= MIN_SUCCESS_SHARE
        items.best_points[index[is_last]] = chosen.points[is_last]
    items.best_scores[leaving] = verdicts.scores[leaving]


def _get_verdicts(items: ActiveSet) -> DrawVerdicts:
    verdicts = items.verdicts
    assert isinstance(verdicts, DrawVerdicts)  # noqa: S101 - the engine makes them with the items
    return verdicts


def count_confirmation_passes(eot_samples: int, blind_steps: int = 0) -> int:
    """Return the maximum passes of an item that judge its points again; 0 for a model that repeats itself.

    Args:
        eot_samples: Passes averaged per evaluation.
        blind_steps: Steps of a search without gradients, whose best points are evaluated again.
    """
    if eot_samples == 1:
        return 0
    refreshes = 1 + blind_steps // STEPS_BETWEEN_REFRESHES if blind_steps else 0
    return (MAX_REFUTATIONS + 2) * CONFIRMATION_DRAWS + refreshes * eot_samples
