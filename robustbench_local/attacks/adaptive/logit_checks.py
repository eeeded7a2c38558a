"""The scale of a model's logits."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_local.attacks.adaptive.findings import LogitFindings

_PROBABILITY_TOLERANCE = 1e-5
"""Largest deviation from 1 of a sum of probabilities in float32, as in AutoAttack's check of the output."""


def check_logits(logits: Tensor) -> LogitFindings:
    """Check the scale of logits, (N, K)."""
    values = logits.detach()
    in_range = ((values >= 0) & (values <= 1)).all()
    sums = (values.sum(dim=1) - 1).abs()
    are_probabilities = bool(in_range & (sums <= _PROBABILITY_TOLERANCE).all())
    probabilities = values if are_probabilities else values.softmax(dim=1)
    spread = values.amax(dim=1) - values.amin(dim=1)
    return LogitFindings(
        range=float(torch.nan_to_num(spread).median()),
        are_probabilities=are_probabilities,
        saturated_share=float((probabilities.amax(dim=1) >= 1).float().mean()),
        are_labels=_are_labels(values),
    )


def _are_labels(values: Tensor) -> bool:
    """Check whether all rows are one constant at the label and another one elsewhere."""
    ordered = values.sort(dim=1, descending=True).values
    top, others = ordered[:, :1], ordered[:, 1:]
    is_constant = bool((others == others[:1, :1]).all()) and bool((top == top[0]).all())
    is_one_hot = bool((top == 1).all()) and bool((others == 0).all())
    # a single image, or two classes, cannot tell a constant from a score
    return is_constant and (is_one_hot or (len(values) > 1 and values.shape[1] > 2))
