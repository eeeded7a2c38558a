"""Counting passes: forward and backward ones, an image at a time, and what was wrong with gradients."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_local.classifier.gradient_repair import GradientFaults
from robustbench_local.errors import InvariantError

_finished = [0]


def pass_finished() -> None:
    """Say that a pass, or a step as long as one, has come to its end, whichever classifier it was of."""
    _finished[0] += 1


def count_finished_passes() -> int:
    """How often that was said in this process: while it grows, work goes on."""
    return _finished[0]


class GradientCounts(NamedTuple):
    """What was seen of one image's gradients."""

    steps: int
    """Looks at its gradient."""
    nonfinite_entries: int
    """Entries that were NaN or infinite, summed over them."""
    nonfinite_steps: int
    """Looks with such entries."""
    zero_steps: int
    """Looks at a gradient that was exactly zero, after the repair if there was one."""
    unconfirmed_steps: int
    """Looks at a repaired gradient, not zero, that a finite difference did not confirm."""


class Meter:
    """Forward and backward passes spent on each image (trust invariant V12).

    Args:
        count: How many images are measured.
        device: Where to count; on the model's device, so that counting never waits for it.
        limit: Most forward passes an image may spend, its queries; None for no limit, which costs no time.

    Attributes:
        total: Passes of either kind over all images, for showing that work goes on.
        stages: For each image the stage of an ensemble that found its candidate; empty where none did.
    """

    def __init__(self, count: int, device: torch.device, limit: int | None = None) -> None:
        self.limit = limit
        self.total = 0
        self.stages = [""] * count
        self._forward = torch.zeros(count, dtype=torch.int64, device=device)
        self._backward, self._looks = torch.zeros_like(self._forward), torch.zeros_like(self._forward)
        self._faults = torch.zeros(4, count, dtype=torch.int64, device=device)

    @property
    def gradients(self) -> list[GradientCounts]:
        """What was seen of each image's gradients so far; waits for the device."""
        counts = torch.cat([self._looks[None], self._faults]).T.tolist()
        return [GradientCounts(*row) for row in counts]

    @property
    def forward(self) -> Tensor:
        """Forward passes of each image so far, int64, (count,), on the CPU."""
        return self._forward.cpu()

    @property
    def backward(self) -> Tensor:
        """Backward passes of each image so far, int64, (count,), on the CPU."""
        return self._backward.cpu()

    def left(self, rows: Tensor | None = None) -> Tensor | None:
        """Queries that images may still spend, int64, where it counts; None where there is no limit.

        Args:
            rows: Which images, by default all.
        """
        if self.limit is None:
            return None
        spent = self._forward if rows is None else self._forward[rows.to(self._forward.device)]
        return self.limit - spent

    def name_stage(self, rows: Tensor, stage: str) -> None:
        """Note which stage of an ensemble found the candidates of some images, (M,) int64."""
        for row in rows.tolist():
            self.stages[row] = stage

    def reserve(self, rows: Tensor | None, size: int) -> None:
        """Refuse a forward pass that an image has no query left for, before it happens.

        Args:
            rows: As in `add_forward`.
            size: As in `add_forward`.

        Raises:
            InvariantError: If an image would exceed the limit.
        """
        if self.limit is None:
            return
        after = self._forward.clone()
        _add(after, rows, size)
        over = (after > self.limit).nonzero().flatten()
        if len(over):
            raise InvariantError(
                f"{len(over)} of {len(after)} images would exceed their limit of {self.limit} queries, "
                f"the first in row {int(over[0])}",
                remedy="this is a bug of the attack: it has to ask for what is left",
            )

    def add_forward(self, rows: Tensor | None, size: int) -> None:
        """Count one forward pass of ``size`` images; ``rows`` says which, by default the first ones."""
        self.total += size
        _add(self._forward, rows, size)

    def add_backward(self, rows: Tensor | None, size: int, times: int = 1) -> None:
        """Count ``times`` backward passes of ``size`` images; ``rows`` says which, else the first ones."""
        self.total += size * times
        _add(self._backward, rows, size, times)

    def add_look(self, rows: Tensor | None, size: int) -> None:
        """Count one look at the gradients of ``size`` images; ``rows`` says which, else the first ones."""
        _add(self._looks, rows, size)

    def add_faults(self, rows: Tensor | None, faults: GradientFaults) -> None:
        """Count what was wrong with gradients; ``rows`` says with those of which images, else the first."""
        counts = [faults.entries, faults.nonfinite, faults.zero, faults.unconfirmed]
        which = torch.arange(len(faults.entries)) if rows is None else rows
        found = torch.stack([count.to(self._faults) for count in counts])
        self._faults.index_add_(1, which.to(self._faults.device), found)

    def add_repairs(self, rows: Tensor | None, repaired: Tensor, spent: Meter) -> None:
        """Count what the repair of gradients took.

        Args:
            rows: Which image each row is, else the first ones.
            repaired: (N,) boolean: the rows whose gradients were repaired; others went along for nothing.
            spent: What it took, a row each.
        """
        which = torch.arange(len(repaired)) if rows is None else rows
        which = which.to(self._forward.device)
        for counts, more in ((self._forward, spent._forward), (self._backward, spent._backward)):
            counts.index_add_(0, which, more * repaired.to(more))
        self.total += spent.total


def _add(counts: Tensor, rows: Tensor | None, size: int, times: int = 1) -> None:
    if rows is None:
        if size > len(counts):
            raise InvariantError(f"{size} images went through the model while {len(counts)} are measured")
        counts[:size] += times
        return
    if len(rows) != size:
        raise InvariantError(f"{len(rows)} row numbers for {size} images")
    rows = rows.to(counts.device)
    counts.index_add_(0, rows, _ones(size, counts.device), alpha=times)


@lru_cache(maxsize=256)
def _ones(size: int, device: torch.device) -> Tensor:
    """Not to be changed."""
    return torch.ones(size, dtype=torch.int64, device=device)
