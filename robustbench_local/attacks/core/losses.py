"""Attack losses: (N, K) logits and (N,) labels to (N,) losses. Attacks maximize them.

Source: cross-entropy as in Madry et al. 2018, arXiv:1706.06083; margin as f_6 of Carlini & Wagner 2017,
arXiv:1608.04644, on raw logits; DLR and targeted DLR, Croce & Hein 2020, arXiv:2003.01690, eqs. 6 and 7.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

_MIN_GAP = 1e-12


def compute_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the cross-entropy of the label, (N,), at least 0; its gradient can saturate to 0."""
    return F.cross_entropy(logits, labels, reduction="none")


def compute_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the largest other logit minus the label's, (N,); above 0 if the image is misclassified."""
    own = logits.gather(1, labels[:, None]).squeeze(1)
    return logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1) - own


def compute_dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the difference of logits ratio, (N,): the margin over first minus third logit; K >= 3."""
    ordered = logits.topk(3, dim=1).values
    return compute_margin(logits, labels) / (ordered[:, 0] - ordered[:, 2] + _MIN_GAP)


def compute_targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Compute the DLR towards one target class per image, (N,); needs K >= 4.

    Args:
        logits: (N, K).
        labels: True classes, (N,).
        targets: The target class of each image, (N,).

    Returns:
        The target's logit minus the label's, over the first minus the mean of the third and fourth.
    """
    ordered = logits.topk(4, dim=1).values
    gap = ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2
    own = logits.gather(1, labels[:, None]).squeeze(1)
    is_target = logits.gather(1, targets[:, None]).squeeze(1)
    return (is_target - own) / (gap + _MIN_GAP)


def compute_cross_entropy_to_target(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the log probability of one target class per image, (N,), at most 0; targets (N,)."""
    return -F.cross_entropy(logits, targets, reduction="none")


def compute_margin_to_target(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the logit of one target class per image minus the largest other one, (N,); targets (N,)."""
    return -compute_margin(logits, targets)


def compute_margin_to_target_set(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Compute the largest logit in the target set minus the largest outside, (N,); above 0 on success.

    Args:
        logits: (N, K).
        labels: True classes, (N,). A label counts as outside the set even if it is listed in it.
        targets: The target set, (T,), the same for all images.

    Returns:
        Above 0 exactly if the predicted class is a target and not the label (trust invariant V7).
    """
    is_target = _mask_target_set(logits, labels, targets)
    inside = logits.masked_fill(~is_target, -torch.inf).amax(dim=1)
    return inside - logits.masked_fill(is_target, -torch.inf).amax(dim=1)


def compute_cross_entropy_to_target_set(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Compute the log probability of the whole target set, (N,), at most 0; arguments as above."""
    is_target = _mask_target_set(logits, labels, targets)
    return logits.masked_fill(~is_target, -torch.inf).logsumexp(dim=1) - logits.logsumexp(dim=1)


def compute_log_odds(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Compute the log odds of reaching the attacker's goal, (N,): cross-entropy without its saturation.

    ``compute_cross_entropy`` and ``compute_cross_entropy_to_target_set`` are monotone functions of it. Its
    gradient has the same direction as theirs, but does not vanish if the softmax saturates. It is for attacks
    that use only the gradient's direction.

    Args:
        logits: (N, K).
        labels: True classes, (N,).
        targets: The target set, (T,); empty: every class but the label.

    Returns:
        Above 0 if the target classes together have more than half of the probability.
    """
    is_target = _mask_target_set(
        logits, labels, targets if len(targets) else torch.arange(logits.shape[1], device=logits.device)
    )
    inside = logits.masked_fill(~is_target, -torch.inf).logsumexp(dim=1)
    return inside - logits.masked_fill(is_target, -torch.inf).logsumexp(dim=1)


def _mask_target_set(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return the target set, (N, K) boolean, each row without the row's label."""
    is_target = torch.zeros_like(logits, dtype=torch.bool)
    is_target[:, targets] = True
    return is_target.scatter(1, labels[:, None], value=False)
