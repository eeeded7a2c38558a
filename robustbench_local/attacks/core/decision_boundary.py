"""The decision boundaries between the classes, in the linear approximation of the classifier."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_local.threats.lp_ball import compute_norms
from robustbench_local.threats.threat_model import ThreatModel, is_target

DUAL_NORMS = {"Linf": "L1", "L2": "L2", "L1": "Linf"}
"""Dual norm of the gradient for each norm of the steps."""


def compute_class_leads(logits: Tensor, labels: Tensor, threat: ThreatModel, count: int) -> Tensor:
    """Return the margins of target classes over all other classes, (N, T).

    Args:
        logits: (N, K).
        labels: True classes, (N,).
        threat: Its goal gives the target classes: every class but the label, or the targets except the label.
        count: Maximum T; the classes with the largest logits are selected.

    Returns:
        Each target class's logit minus the largest logit of the other classes, -inf if there are fewer than T
        target classes.
    """
    class_indices = torch.arange(logits.shape[1], device=logits.device)
    listed = (
        is_target(class_indices, threat.targets) if threat.targets else torch.ones_like(class_indices) > 0
    )
    target_mask = listed & (class_indices != labels[:, None])
    most = min(count, len(threat.targets) or logits.shape[1] - 1)
    target_logits = logits.masked_fill(~target_mask, -torch.inf).topk(most, dim=1).values
    return target_logits - logits.masked_fill(target_mask, -torch.inf).amax(dim=1, keepdim=True)


def find_nearest_boundary(leads: Tensor, normals: Tensor, norm: str) -> tuple[Tensor, Tensor]:
    """Find the nearest decision boundary of the linearized classifier, without box constraints.

    Args:
        leads: The margins of T classes, (N, T).
        normals: Their gradients, finite, (N, T, C, H, W).
        norm: Norm of the distances.

    Returns:
        Index of the nearest class among T, (N,), and the distance to its boundary, (N,), infinite if there is
        none.
    """
    slopes = compute_norms(normals.flatten(0, 1), DUAL_NORMS[norm]).view_as(leads)
    distances = torch.where((slopes > 0) & leads.isfinite(), leads.abs() / slopes, torch.inf)
    nearest, chosen = distances.min(dim=1)
    return chosen, nearest
