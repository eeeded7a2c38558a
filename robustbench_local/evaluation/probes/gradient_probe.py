"""Checks that a model's gradients predict how its answers change, so that white-box attacks can use them.

A custom backward pass may return values unrelated to the forward pass. Attacks that follow it then fail, and
the model looks robust.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.gradient_repair import ROUNDING_SHARE
from robustbench_local.double_precision import to_float64

STEP_SIZES = (1e-2, 3e-2, 1e-3)
"""Largest pixel changes of the finite differences, tried in order until one agrees."""
MIN_CHANGE_SHARE = 0.1
"""Minimum share of the predicted change that has to occur. Straight-through gradients of a rounding predict
too much; random gradients predict a change of which 1 / sqrt(C * H * W) occurs."""
MAX_SHARE_RATIO = 3.0
"""Maximum ratio between images of the shares of gradients that only have another unit."""
MIN_INFORMATIVE_SHARE = 0.5
"""Minimum share of informative differences: a plateau, where nothing changes, is not informative."""


def has_misleading_gradients(classifier: Classifier, images: Tensor) -> bool:
    """Check whether no change of an answer matches its gradient at any of the probed points.

    Args:
        classifier: The classifier, with access to gradients and without random draws.
        images: (N, C, H, W) in [0, 1], all different; two of them are used, and a paler copy of the first.

    Returns:
        False also where there is no gradient or the result is inconclusive.
    """
    points = torch.cat([images[:2], 0.4 + 0.2 * images[:1]])
    _, losses, slope = classifier.compute_gradient(points, _mix_logits)
    slope, noise = to_float64(slope), ROUNDING_SHARE * to_float64(losses.abs()).clamp_min(1e-2)
    peak = slope.flatten(1).abs().amax(dim=1).clamp_min(torch.finfo(torch.float64).tiny)
    direction = (slope / peak.view(-1, 1, 1, 1)).to(points)
    shares = []
    for step in STEP_SIZES:
        ends = [(points + sign * step * direction).clamp(0, 1) for sign in (1, -1)]
        with torch.no_grad():
            high, low = (to_float64(_mix_logits(classifier(end))) for end in ends)
        foretold = (slope * to_float64(ends[0] - ends[1])).flatten(1).sum(dim=1)
        came, known = high - low, MIN_CHANGE_SHARE * foretold > noise
        if bool((known & (came >= MIN_CHANGE_SHARE * foretold)).any()):
            return False
        shares.append((came / foretold)[known & (came != 0)])
    joined = torch.cat(shares)
    if len(joined) < MIN_INFORMATIVE_SHARE * len(STEP_SIZES) * len(points):
        return False
    return not (float(joined.min()) > 0 and float(joined.max()) <= MAX_SHARE_RATIO * float(joined.min()))


def _mix_logits(logits: Tensor) -> Tensor:
    """Return a fixed mixture of the logits that no softmax saturates, (N,)."""
    return (logits * torch.arange(logits.shape[1]).cos().to(logits)).sum(dim=1)
