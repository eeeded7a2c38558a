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
    )
