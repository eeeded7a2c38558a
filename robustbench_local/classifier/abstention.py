"""Models that may reject an image: their logits, and what an attack on them has to reach.

Such a model has K classes and one further answer, "rejected". Its logits get one further column, the last,
which is the largest one exactly where the image is rejected. An attack succeeds only if the image is
misclassified *and* accepted, so that rejection protects an image whatever its label. Attacks therefore see K
logits in which the label's is the larger one of its own and the rejecting one.

Source: the combined classifier of Carlini & Wagner 2017, arXiv:1705.07263, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor


def move_rejecting_output(scores: Tensor, index: int) -> Tensor:
    """Return scores, (N, K + 1), with the rejecting output last."""
    count = scores.shape[1]
    place = count + index if index < 0 else index
    others = [column for column in range(count) if column != place]
    return scores[:, [*others, place]]


def append_rejection_of_nan(scores: Tensor) -> Tensor:
    """Return scores, (N, K + 1), that reject rows of NaN; the rejecting logit of others is their smallest."""
    rejected = scores.isnan().all(dim=1, keepdim=True)
    safe = torch.where(rejected, torch.zeros_like(scores), scores)
    smallest = safe.detach().amin(dim=1, keepdim=True)
    return torch.cat([safe, torch.where(rejected, smallest + 1, smallest)], dim=1)


def append_rejection_by_score(scores: Tensor, accepting: Tensor, threshold: float) -> Tensor:
    """Return scores, (N, K + 1), that reject images whose accepting score lies below the threshold.

    Args:
        scores: (N, K).
        accepting: (N,) or (N, 1), booleans or scores; gradients pass through scores.
        threshold: Smallest accepting score.
    """
    values = accepting.reshape(len(scores), 1).to(scores.dtype)
    low, high = scores.detach().aminmax(dim=1, keepdim=True)
    # a tie would reject, and a score at the threshold accepts: the step down is far above rounding
    accepted = values >= threshold
    lead = (threshold - values) * (high - low).clamp_min(1e-6)
    step = torch.where(accepted, -1e-3, 1e-3) * (high - low).clamp_min(1e-6)
    return torch.cat([scores, scores.amax(dim=1, keepdim=True) + lead + step], dim=1)


def merge_rejection(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the logits that an attack has to change, (N, K), of logits with a rejecting column, (N, K + 1).

    Their largest one is another class than the label exactly if the image is accepted and misclassified.

    Args:
        logits: (N, K + 1), the rejecting one last.
        labels: True classes, (N,).
    """
    classes, rejecting = logits[:, :-1], logits[:, -1:]
    own = classes.gather(1, labels[:, None])
    return classes.scatter(1, labels[:, None], torch.maximum(own, rejecting))
