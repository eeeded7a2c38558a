"""Differences between two answers of a model, and the tolerance for rounding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_local.models.program_operators import is_dynamically_quantized

SAME_SHAPE_TOLERANCE = 1e-4
"""Share of the logits' range by which answers may differ between batches of one size, with the image at the
same position: kernels then compute the same, whatever the other images are. As large as the margin that makes
a verdict fragile."""
ROUNDING_FACTOR = 10.0
"""Factor between the effect of a change of 1e-6 in every pixel and the allowed difference between batches of
other sizes: sums are taken in another order, and a network of low precision rounds them differently."""
MAX_ROUNDING_SHARE = 0.1
"""The largest share of the logits' range that may count as rounding."""
QUANTIZED_TOLERANCE = 8 / 256
"""Share for networks with quantized layers: their arithmetic has 256 levels. Those that lay them over the
whole batch have no such tolerance: their answers do depend on it."""
SERVICE_TOLERANCE = 1e-2
"""The same for a callable: its arithmetic is unknown, and it may round its answers."""
RECORDED_TOLERANCE = 1e-2
"""Share of the logits' range by which answers may differ while gradients are recorded: without recording,
torch has faster kernels for some layers, which round differently."""


def measure_difference(first: Tensor, second: Tensor) -> float:
    """Return the largest difference between two answers; infinite where only one of them is finite."""
    finite = torch.isfinite(first), torch.isfinite(second)
    if not torch.equal(*finite):
        return float("inf")
    return float((first - second)[finite[0]].abs().max()) if bool(finite[0].any()) else 0.0


def measure_logit_range(answers: Tensor) -> float:
    """Return the largest range of an image's logits."""
    finite = torch.isfinite(answers)
    high = answers.masked_fill(~finite, -torch.inf).amax(dim=1)
    low = answers.masked_fill(~finite, torch.inf).amin(dim=1)
    largest = answers.masked_fill(~finite, 0.0).abs().max()
    # where all logits are nearly equal, their summands round by more than the range of the logits
    return max(float((high - low).max()), 1e-2 * float(largest), 1e-12)


def has_difference(first: Tensor, second: Tensor, tolerance: float) -> bool:
    """Check whether two answers, (N, K), differ by more than a share of the logits' range."""
    return measure_difference(first, second) > tolerance * measure_logit_range(torch.cat([first, second]))


def find_tolerance(module: nn.Module | None) -> float:
    """Return the tolerance for batches of one size, with the image at the same position."""
    if module is None or is_dynamically_quantized(module):
        return SAME_SHAPE_TOLERANCE
    kinds = (type(part).__module__ for part in module.modules())
    quantized = any(kind.startswith("torch.") and "quantized" in kind for kind in kinds)
    return max(SAME_SHAPE_TOLERANCE, QUANTIZED_TOLERANCE if quantized else 0.0)


def compute_size_tolerance(answers: Tensor, moved: Tensor, tolerance: float) -> float:
    """Return the tolerance for batches of other sizes and positions, from the effect of the model's rounding.

    Args:
        answers: The model's answers, (N, K).
        moved: The answers to the same images with 1e-6 added to every pixel.
        tolerance: The tolerance for batches of one size, a lower bound.
    """
    rounding = measure_difference(moved, answers) / measure_logit_range(answers)
    return max(tolerance, min(ROUNDING_FACTOR * rounding, MAX_ROUNDING_SHARE))
