"""What the attacker may do: a norm, a radius, a goal and a region."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from torch import Tensor

from robustbench_local.errors import ThreatError

Norm = Literal["Linf", "L2", "L1"]
Goal = Literal["untargeted", "targeted"]
Region = Literal["image", "mask"]

NORMS: tuple[Norm, ...] = get_args(Norm)
_SPELLINGS = {norm.lower(): norm for norm in NORMS}
_SPELLINGS |= {"l_inf": "Linf", "inf": "Linf", "l_2": "L2", "2": "L2", "l_1": "L1", "1": "L1"}


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """A perturbation budget in pixel units of [0, 1] and what counts as success.

    Args:
        norm: ``"Linf"``, ``"L2"`` or ``"L1"``, the norm of the perturbation of a whole image.
        eps: Radius of the ball, at least 0; ``"8/255"`` is read exactly.
        targets: Class indices the attacker wants to be read; empty means untargeted: any wrong class.
        region: ``"image"``, or ``"mask"`` to confine the perturbation to each image's mask.

    Raises:
        ThreatError: If the norm is unknown, the radius is negative or not finite, or a target is negative.
    """

    norm: Norm
    eps: float
    targets: tuple[int, ...] = ()
    region: Region = "image"

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", parse_norm(self.norm))
        object.__setattr__(self, "eps", parse_eps(self.eps))
        object.__setattr__(self, "targets", tuple(sorted({int(target) for target in self.targets})))
        if any(target < 0 for target in self.targets):
            raise ThreatError(f"target classes must be 0 or more, got {list(self.targets)}")
        if self.region not in get_args(Region):
            raise ThreatError(f"region must be one of {get_args(Region)}, got {self.region!r}")

    @property
    def goal(self) -> Goal:
        """``"targeted"`` as soon as there is one target."""
        return "targeted" if self.targets else "untargeted"

    @property
    def name(self) -> str:
        """Short name as in cards and gates: ``linf-8`` (eps * 255), ``l2-0.5`` or ``l1-12`` (eps itself)."""
        size = self.eps * 255 if self.norm == "Linf" else self.eps
        return f"{self.norm.lower()}-{size:.6g}"

    def success(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """Which predictions give the attacker what was wanted.

        Args:
            predictions: Predicted classes, (N,).
            labels: True classes, (N,).

        Returns:
            Boolean, (N,). Untargeted: prediction differs from the label. Targeted: the prediction is one
            of the targets and is not the label (trust invariant V7).
        """
        wrong = predictions != labels
        if not self.targets:
            return wrong
        return wrong & is_target(predictions, self.targets)


def is_target(classes: Tensor, targets: Collection[int]) -> Tensor:
    """Whether each class index, (N,), is one of ``targets``; boolean, (N,)."""
    wanted = classes.new_tensor(sorted(targets))
    return (classes[:, None] == wanted[None, :]).any(dim=1)


def parse_norm(norm: str) -> Norm:
    """Read a norm in any of its usual spellings.

    Raises:
        ThreatError: If there is no such norm here.
    """
    known = _SPELLINGS.get(str(norm).lower())
    if known is None:
        raise ThreatError(f"unknown norm {norm!r}", remedy=f"use one of {', '.join(NORMS)}")
    return known


def parse_eps(eps: float | str) -> float:
    """Read a radius: a number, or a fraction such as ``"8/255"``, without rounding in between.

    Raises:
        ThreatError: If it is not a number, negative, NaN or infinite.
    """
    try:
        value = float(Fraction(eps.replace(" ", ""))) if isinstance(eps, str) else float(eps)
    except (ValueError, ZeroDivisionError, TypeError, OverflowError):
        raise ThreatError(
            f"cannot read eps {eps!r}", remedy='write a number or a fraction such as "8/255"'
        ) from None
    if not math.isfinite(value) or value < 0:
        raise ThreatError(f"eps must be finite and at least 0, got {eps!r}")
    return value
