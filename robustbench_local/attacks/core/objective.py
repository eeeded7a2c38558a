"""The loss an attack maximizes and its success criterion, shared by the gradient attacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from robustbench_local.attacks.core import losses
from robustbench_local.errors import ConfigError, ThreatError
from robustbench_local.threats.threat_model import ThreatModel

LossName = Literal["ce", "margin", "dlr"]
"""Losses: cross-entropy, margin of the raw logits, difference of logits ratio."""

CONFIRMED_MARGIN_SHARE = 1e-5
"""Margin, as a fraction of the logits' range, at which the search for an image ends; below it, another batch
shape may change the verdict."""


def check_loss(name: str) -> None:
    """Refuse a loss that does not exist.

    Raises:
        ConfigError: If the name is unknown.
    """
    if name not in get_args(LossName):
        raise ConfigError(f"unknown loss {name!r}", remedy=f"use {', '.join(get_args(LossName))}")


def check_counts(name: str, **counts: int) -> None:
    """Refuse count hyperparameters below 1.

    Raises:
        ConfigError: If one is below 1; names the first.
    """
    for key, value in counts.items():
        if value < 1:
            raise ConfigError(f"{name}'s {key} must be at least 1, got {value}")


def check_loss_defined(name: LossName, threat: ThreatModel, num_classes: int) -> None:
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


def build_objective(
    name: LossName, threat: ThreatModel, labels: Tensor, image_targets: Tensor | None = None
) -> Callable[[Tensor], Tensor]:
    """Build the loss to maximize: logits (N, K) to (N,).

    Args:
        name: Name of the loss.
        threat: Its goal: away from the label or towards a target.
        labels: True classes, (N,).
        image_targets: One target class per image, (N,), for any goal; None: the threat model's goal.

    Returns:
        A function of the logits alone.
    """
    if image_targets is not None:
        towards = {"ce": losses.compute_cross_entropy_to_target, "margin": losses.compute_margin_to_target}
        if name == "dlr":
            return lambda logits: losses.compute_targeted_dlr(logits, labels, image_targets)
        return lambda logits: towards[name](logits, image_targets)
    if not threat.targets:
        untargeted = {
            "ce": losses.compute_cross_entropy,
            "margin": losses.compute_margin,
            "dlr": losses.compute_dlr,
        }[name]
        return lambda logits: untargeted(logits, labels)
    targets = labels.new_tensor(threat.targets)
    if name == "dlr":
        return lambda logits: losses.compute_targeted_dlr(logits, labels, targets.expand_as(labels))
    targeted = {
        "ce": losses.compute_cross_entropy_to_target_set,
        "margin": losses.compute_margin_to_target_set,
    }[name]
    return lambda logits: targeted(logits, labels, targets)


def evaluate_goal(logits: Tensor, labels: Tensor, threat: ThreatModel) -> tuple[Tensor, Tensor]:
    """Return the success margins of images, and which of their searches can end.

    Args:
        logits: The classifier's logits, (N, K).
        labels: True classes, (N,).
        threat: Its goal.

    Returns:
        Margins in logits, (N,): above 0 on success, infinite if a logit is not finite, which the harness
        counts as misclassified; and (N,) boolean: the success is beyond floating-point noise, since the
        margin exceeds a hundred-thousandth of the logits' range, or the logits are not finite.
    """
    low, high = logits.aminmax(dim=1)
    # few operations, since every step pays for them. A non-finite value times zero is NaN: it turns the
    # margin into NaN, and NaN is not below the bound
    margins = build_objective("margin", threat, labels)(logits).add_(low, alpha=0).add_(high, alpha=0)
    done = (margins <= (high - low).mul_(CONFIRMED_MARGIN_SHARE)).logical_not_()
    return margins.nan_to_num_(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf), done


def compute_success_margin(logits: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
    """Return the margins of :func:`evaluate_goal`, (N,)."""
    return evaluate_goal(logits, labels, threat)[0]
