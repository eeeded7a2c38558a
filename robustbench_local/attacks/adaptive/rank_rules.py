"""Surrogates of values chosen by rank, such as medians and sorted values, and of ranks themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustbench_local.attacks.adaptive.operator_rules import OperatorCall, define_rule, measure_scale
from robustbench_local.attacks.adaptive.straight_through import carries_gradient

CHOSEN_VALUES = "values by rank"
"""Operator whose own gradient is right, but only that of the one value chosen, such as a median of pixels."""
CHOSEN_SCORES = "scores by rank"
"""The same on few values, such as the scores of an ensemble's members."""
MAX_SCORES = 8192
"""Number of values up to which they count as few: two images of MNIST have 14,112 in windows of 3x3."""
_MAX_COMPARED = 64
"""Values of a row up to which all are compared with all."""
_SPREAD = 2.0
"""Width of the weights around a chosen value, in mean distances from it: of three values that are far apart
the chosen one gets about half of the gradient."""


@define_rule("median", "nanmedian", "quantile", "nanquantile")
def _spread_median(call: OperatorCall) -> Any:
    return spread_chosen_values(call, call.run_plainly())


def spread_chosen_values(call: OperatorCall, result: Any) -> Any:
    """Let values chosen by rank have the gradient of a mean in which the nearest values weigh most.

    Args:
        call: The call of a median, quantile, sort, top-k or k-th value.
        result: What it returned.
    """
    source, dim = call.values[0], _read_dimension(call)
    if dim is None or not carries_gradient(source):
        return result
    call.mode.selections.append((call.mode.find_path(), call.name))
    operator = CHOSEN_SCORES if source.numel() <= MAX_SCORES else CHOSEN_VALUES
    if not call.mode.is_active(operator):
        return result
    values = result if isinstance(result, Tensor) else result[0]
    chosen = values.detach()
    if chosen.ndim == source.ndim - 1:
        chosen = chosen.unsqueeze(dim)
    if chosen.ndim != source.ndim or chosen.shape[dim] > _MAX_COMPARED:
        return result
    entries, targets = source.movedim(dim, -1).unsqueeze(-2), chosen.movedim(dim, -1).unsqueeze(-1)
    distance = (entries.detach() - targets).abs()
    scale = _SPREAD * distance.mean(dim=-1, keepdim=True).clamp_min(1e-12)
    surrogate = ((-distance / scale).softmax(dim=-1) * entries).sum(dim=-1).movedim(-1, dim)
    spread = call.attach_surrogate(operator, values, surrogate.reshape(values.shape))
    return spread if isinstance(result, Tensor) else type(result)((spread, *result[1:]))


def _read_dimension(call: OperatorCall) -> int | None:
    """Return the dimension of a choice, not negative; None if all values compete."""
    position = 2 if call.name in {"kthvalue", "quantile", "nanquantile", "topk"} else 1
    dim = call.get_argument(position, "dim")
    if dim is None and call.name in {"kthvalue", "topk", "sort"}:
        dim = -1
    return dim % call.values[0].ndim if type(dim) is int else None


def estimate_ranks(scores: Tensor, dim: int) -> Tensor:
    """Return smooth ranks, from 0 for the largest score of a row.

    Args:
        scores: Any shape.
        dim: Dimension along which they compete.
    """
    rows = scores.movedim(dim, -1)
    count = rows.shape[-1]
    if count <= _MAX_COMPARED:
        gaps = rows.unsqueeze(-2) - rows.unsqueeze(-1)
        ranks = torch.sigmoid(gaps / measure_scale(gaps)).sum(dim=-1) - 0.5
    else:  # as many as a normal distribution has above them
        center = rows.mean(dim=-1, keepdim=True)
        spread = rows.detach().std(dim=-1, keepdim=True).clamp_min(1e-12)
        ranks = (count - 1) * torch.special.ndtr((center - rows) / spread)
    return ranks.movedim(-1, dim)
