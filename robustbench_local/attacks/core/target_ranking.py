"""The target classes of a targeted attack, ranked by likelihood for each image."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_local.attacks.core.engine import Engine
from robustbench_local.threats.threat_model import ThreatModel


def rank_targets(engine: Engine, threat: ThreatModel, count: int) -> Tensor:
    """Rank the target classes of each image, the most likely on the clean image first.

    It takes a forward pass for each unfinished image.

    Args:
        engine: Its unfinished images are evaluated; the rows of the others are meaningless.
        threat: The targets of a targeted goal are the only candidates; otherwise every class but the label.
        count: Maximum targets per image.

    Returns:
        (N, T) int64 for ``Engine.build_items``; T is ``count``, or less if there are fewer candidates.
    """
    ranked = torch.zeros_like(engine.labels)[:, None].repeat(1, _count_targets(threat, engine, count))
    open_rows = engine.find_unfinished_rows()
    for rows in torch.split(open_rows, engine.batch_size) if len(open_rows) else ():
        logits = engine.compute_logits(engine.images[rows], rows)
        ranked[rows] = rank_classes(logits, engine.labels[rows], threat, ranked.shape[1])
    return ranked


def rank_classes(logits: Tensor, labels: Tensor, threat: ThreatModel, count: int) -> Tensor:
    """Return the possible target classes by descending logit, (N, count).

    Args:
        logits: (N, K); NaN counts as 0.
        labels: True classes, (N,), which are never targets.
        threat: Its targets, if it has any, are the only candidates.
        count: At most the number of candidates. An image whose label is among the targets has one candidate
            less; its most likely candidate is then repeated.
    """
    allowed = torch.ones_like(logits, dtype=torch.bool)
    if threat.targets:
        allowed = torch.zeros_like(allowed)
        allowed[:, list(threat.targets)] = True
    allowed = allowed.scatter(1, labels[:, None], value=False)
    best = logits.nan_to_num().masked_fill(~allowed, -torch.inf).topk(count, dim=1)
    return torch.where(best.values.isneginf(), best.indices[:, :1], best.indices)


def _count_targets(threat: ThreatModel, engine: Engine, count: int) -> int:
    return min(count, len(threat.targets) or engine.classifier.num_classes - 1)
