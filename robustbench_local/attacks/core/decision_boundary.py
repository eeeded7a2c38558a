"""The decision boundaries between the classes, in the linear approximation of the classifier."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_local.threats.lp_ball import compute_norms
from robustbench_local.threats.threat_model import ThreatModel, is_target

DUAL_NORMS = {"Linf": "L1", "L2": "L2", "L1": "Linf"}
"""The norm that a gradient is measured in where steps are measured in another one."""


def compute_class_leads(logits: Tensor, labels: Tensor, threat: ThreatModel, count: int) -> Tensor:
    """How far classes that the attacker wants are ahead of those that are not wanted, (N, T).

    Args:
        logits: (N, K).
        labels: True classes, (N,).
        threat: Its goal decides what is wanted: every class but the label, or the targets but the label.
        count: T at most: those of the largest logits.

    Returns:
        Each wanted class's logit minus the largest unwanted one, -inf where fewer than T are wanted.
    """
    everything = torch.arange(logits.shape[1], device=logits.device)
    listed = is_target(everything, threat.targets) if threat.targets else torch.ones_like(everything) > 0
    wanted = listed & (everything != labels[:, None])
    most = min(count, len(threat.targets) or logits.shape[1] - 1)
    ahead = logits.masked_fill(~wanted, -torch.inf).topk(most, dim=1).values
    return ahead - logits.masked_fill(wanted, -torch.inf).amax(dim=1, keepdim=True)


def find_nearest_boundary(leads: Tensor, normals: Tensor, norm: str) -> tuple[Tensor, Tensor]:
    """Which border is nearest if the classifier is linear and there is no box.

    Args:
        leads: The lead of T classes, (N, T).
        normals: Its gradients, finite, (N, T, C, H, W).
        norm: What distances are measured in.

    Returns:
        Which of the T classes it is, (N,), and the distance to its border, (N,), infinite where none is seen.
    """
    slopes = compute_norms(normals.flatten(0, 1), DUAL_NORMS[norm]).view_as(leads)
    distances = torch.where((slopes > 0) & leads.isfinite(), leads.abs() / slopes, torch.inf)
    nearest, chosen = distances.min(dim=1)
    return chosen, nearest
