"""What an attacker climbs, and when it has arrived: shared by the gradient attacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from robustbench_local import losses
from robustbench_local.errors import ConfigError, ThreatError
from robustbench_local.threat import ThreatModel

LossName = Literal["ce", "margin", "dlr"]
"""Cross-entropy, margin of the raw logits, difference of logits ratio."""

CONFIRMED = 1e-5
"""An image leaves the search when its margin exceeds this share of the logits' range: below it, another batch
shape may turn the verdict."""


def check_loss(name: str) -> None:
    """Refuse a loss that does not exist.

    Raises:
        ConfigError: If the name is unknown.
    """
    if name not in get_args(LossName):
        raise ConfigError(f"unknown loss {name!r}", remedy=f"use {', '.join(get_args(LossName))}")


def check_defined(name: LossName, threat: ThreatModel, num_classes: int) -> None:
    """Refuse a loss that is not defined for the goal or the number of classes.

    Raises:
        ThreatError: For DLR with fewer than 3 classes (4 with a target), or with a set of targets.
    """
    if name != "dlr":
        return
    if len(threat.targets) > 1:
        raise ThreatError("the DLR loss takes one target, not a set", remedy="use loss: margin")
    fewest = 4 if threat.targets else 3
    if num_classes < fewest:
        raise ThreatError(
            f"the {threat.goal} DLR loss needs {fewest} classes, the model has {num_classes}",
            remedy="use loss: margin",
        )


def objective(name: LossName, threat: ThreatModel, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """The loss to climb: logits (N, K) to (N,), larger is better for the attacker.

    Args:
        name: Which loss.
        threat: Its goal decides between leaving the label and reaching a target.
        labels: True classes, (N,).

    Returns:
        A function of the logits alone.
    """
    if not threat.targets:
        untargeted = {"ce": losses.ce, "margin": losses.margin, "dlr": losses.dlr}[name]
        return lambda logits: untargeted(logits, labels)
    targets = labels.new_tensor(threat.targets)
    if name == "dlr":
        return lambda logits: losses.targeted_dlr(logits, labels, targets.expand_as(labels))
    targeted = {"ce": losses.ce_to_targets, "margin": losses.margin_to_targets}[name]
    return lambda logits: targeted(logits, labels, targets)


def success_margin(logits: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
    """How far an image is beyond the attacker's goal, in logits, (N,).

    Args:
        logits: (N, K).
        labels: True classes, (N,).
        threat: Its goal.

    Returns:
        Above 0 on success; infinite where a logit is not finite, which the harness counts as broken.
    """
    finite = torch.isfinite(logits).all(dim=1)
    margin = objective("margin", threat, labels)(logits)
    return torch.where(finite, margin, torch.inf)


class Best:
    """The best point found so far for each image, and which images are done.

    Args:
        images: The originals, (N, C, H, W): what is returned for an image that was never tried.
        labels: True classes, (N,).
        threat: The goal.
    """

    def __init__(self, images: Tensor, labels: Tensor, threat: ThreatModel) -> None:
        self.points = images.clone()
        self.found = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self._margins = torch.full((len(images),), -torch.inf, device=images.device)
        self._labels, self._threat = labels, threat

    def open(self) -> Tensor:
        """Rows of the images that are not done, ascending, int64."""
        return (~self.found).nonzero().flatten()

    def offer(self, rows: Tensor, points: Tensor, logits: Tensor) -> Tensor:
        """Keep each point that is better than what is known; the first confirmed one is final.

        Args:
            rows: Which images the points belong to, (M,), none of them done.
            points: (M, C, H, W).
            logits: The classifier's answer on them, (M, K).

        Returns:
            Boolean, (M,): the goal is reached beyond floating-point noise, so the image is done.
        """
        margins = success_margin(logits, self._labels[rows], self._threat)
        better = margins > self._margins[rows]
        self.points[rows[better]] = points[better]
        self._margins[rows[better]] = margins[better]
        spread = logits.amax(dim=1) - logits.amin(dim=1)
        done = (margins > CONFIRMED * spread) | margins.isposinf()
        self.found[rows[done]] = True
        return done
