"""When another form of the images, or another order of the classes, is clearly better, and the test of it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from robustbench_local.paired_tests import compute_mcnemar
from robustbench_local.statistics import compute_clopper_pearson, round_figure
from robustbench_local.store.outcome_limits import get_least_accuracy
from robustbench_local.store.preprocessing_record import BetterForm

MAX_FAMILY_CHANCE = 0.01
"""Chance of the gains of any form, if none were better, up to which one is reported. Sound networks lose
accuracy in each form, so that their chance of a false alarm is far smaller."""
MIN_GAIN = 0.05
"""Gain in clean accuracy from which on a form is reported."""
NO_CLASS = -1
"""The prediction for an image that no logit decides."""


def find_predicted_classes(logits: Tensor, num_classes: int) -> Tensor:
    """Return the class of the strictly largest logit, (N,), also of rejected images; `NO_CLASS` for none.

    Args:
        logits: (N, K) or, with a rejecting output last, (N, K + 1).
        num_classes: K.
    """
    top = logits[:, :num_classes].topk(2, dim=1)
    is_clear = torch.isfinite(logits).all(dim=1) & (top.values[:, 0] > top.values[:, 1])
    return torch.where(is_clear, top.indices[:, 0], torch.full_like(top.indices[:, 0], NO_CLASS))


def find_rejected(logits: Tensor, num_classes: int) -> Tensor:
    """Return which images a model rejects, (N,); see `find_predicted_classes`."""
    if logits.shape[1] == num_classes:
        return torch.zeros(len(logits), dtype=torch.bool)
    return logits[:, num_classes] >= logits[:, :num_classes].amax(dim=1)


def can_be_better(errors: int, n: int, forms: int) -> bool:
    """Return whether any form could be clearly better: it gains at most the misclassified images.

    Args:
        errors: Misclassified images.
        n: Images in all.
        forms: Number of forms that would be tried.
    """
    return bool(n) and 0.5**errors * forms <= MAX_FAMILY_CHANCE and errors >= MIN_GAIN * n


def compare_form(
    before: Tensor,
    after: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    forms: int,
    kind: Literal["images", "classes"],
    form: str,
    remedy: tuple[str, bool],
) -> BetterForm | None:
    """Compare a form with the images as they are, by McNemar's exact test; None unless it is clearly better.

    It has to gain significantly and by `MIN_GAIN`, and to be better than the most frequent class alone: the
    answers of an untrained network are as good in one form as in another.

    Args:
        before: (N,), which images are classified correctly as they are.
        after: (N,), which are in the form.
        labels: (N,), their classes.
        num_classes: K.
        forms: Number of forms that are tried, for which the chance is corrected (Bonferroni).
        kind: What is in another form.
        form: The form, in words that follow "with".
        remedy: What to do, and whether it is YAML.
    """
    n = len(labels)
    if not n:
        return None
    comparison = compute_mcnemar(before.tolist(), after.tolist())
    gains, losses = comparison.only_second, comparison.only_first
    if gains <= losses:
        return None
    chance = min(1.0, comparison.p_value / 2 * forms)
    accuracy = compute_clopper_pearson(int(after.sum()), n)
    is_significant = chance <= MAX_FAMILY_CHANCE and gains - losses >= MIN_GAIN * n
    is_informed = accuracy.low > float(labels.bincount().max()) / n
    if not (is_significant and is_informed and accuracy.value >= get_least_accuracy(num_classes)):
        return None
    return BetterForm(
        kind=kind,
        form=form,
        remedy=remedy[0],
        is_yaml=remedy[1],
        correct=accuracy.count,
        correct_before=int(before.sum()),
        gains=gains,
        losses=losses,
        n=n,
        chance=round_figure(chance),
    )
