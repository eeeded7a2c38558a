"""Pass counting: forward and backward passes and gradient faults, per image."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_local.classifier.gradient_repair import GradientFaults
from robustbench_local.classifier.pass_watch import record_watched_passes
from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import InvariantError

_finished_passes = [0]


def record_finished_pass() -> None:
    """Record that a pass of any classifier, or a step as long as one, is finished."""
    _finished_passes[0] += 1


def count_finished_passes() -> int:
    """Return the number of finished passes in this process; it grows as long as work goes on."""
    return _finished_passes[0]


class GradientCounts(NamedTuple):
    """Counts of the gradients of one image."""

    steps: int
    """Number of gradients."""
    nonfinite_entries: int
    """Number of entries that were NaN or infinite, over all gradients."""
    nonfinite_steps: int
    """Number of gradients with such entries."""
    zero_steps: int
    """Number of gradients that were exactly zero, after the repair if there was one."""
    unconfirmed_steps: int
    """Number of repaired gradients, not zero, that a finite difference did not confirm."""


class PassCounter:
    """Forward and backward passes spent on each image (trust invariant V12).

    Args:
        count: Number of images.
        device: Device of the counts; on the model's device, counting never waits for it.
        limit: Maximum number of forward passes (queries) per image; None for no limit, which costs no time.

    Attributes:
        total_passes: Passes of either kind over all images, as a sign of progress.
        stages: For each image the stage of an ensemble that found its candidate; empty where none did.
    """

    def __init__(self, count: int, device: torch.device, limit: int | None = None) -> None:
        self.query_limit = limit
        self.total_passes = 0
        self.stages = [""] * count
        self._forward_counts = torch.zeros(count, dtype=torch.int64, device=device)
        self._backward_counts, self._gradient_steps = (
            torch.zeros_like(self._forward_counts),
            torch.zeros_like(self._forward_counts),
        )
        self._fault_counts = torch.zeros(4, count, dtype=torch.int64, device=device)

    @property
    def gradient_counts(self) -> list[GradientCounts]:
        """The gradient counts of each image so far; waits for the device."""
        counts = torch.cat([self._gradient_steps[None], self._fault_counts]).T.tolist()
        return [GradientCounts(*row) for row in counts]

    @property
    def forward_passes(self) -> Tensor:
        """Forward passes of each image so far, int64, (count,), on the CPU."""
        return self._forward_counts.cpu()

    @property
    def backward_passes(self) -> Tensor:
        """Backward passes of each image so far, int64, (count,), on the CPU."""
        return self._backward_counts.cpu()

    def queries_left(self, rows: Tensor | None = None) -> Tensor | None:
        """Return the remaining queries of images, int64, on the counter's device; None without a limit.

        Args:
            rows: The images, by default all.
        """
        if self.query_limit is None:
            return None
        spent = (
            self._forward_counts
            if rows is None
            else self._forward_counts[rows.to(self._forward_counts.device)]
        )
        return self.query_limit - spent

    def record_stage(self, rows: Tensor, stage: str) -> None:
        """Record the stage of an ensemble that found the candidates of some images, (M,) int64."""
        for row in rows.tolist():
            self.stages[row] = stage

    def check_queries_left(self, rows: Tensor | None, size: int) -> None:
        """Refuse a forward pass for which an image has no query left.

        Args:
            rows: As in `add_forward`.
            size: As in `add_forward`.

        Raises:
            InvariantError: If an image would exceed the limit.
        """
        if self.query_limit is None:
            return
        after = self._forward_counts.clone()
        _add_counts(after, rows, size)
        over = (after > self.query_limit).nonzero().flatten()
        if len(over):
            raise InvariantError(
                f"{len(over)} of {format_count(len(after), 'image')} would exceed their limit of "
                f"{format_count(self.query_limit, 'query')}, "
                f"the first in row {int(over[0])}",
                remedy="this is a bug of the attack: it has to ask for what is left",
            )

    def save_forward_counts(self) -> tuple[Tensor, int]:
        """Return the forward passes so far, for `restore_forward_counts`."""
        return self._forward_counts.clone(), self.total_passes

    def restore_forward_counts(self, saved: tuple[Tensor, int]) -> None:
        """Forget the forward passes since they were saved: an attempt for which memory ran out."""
        counts, self.total_passes = saved
        self._forward_counts.copy_(counts)

    def add_forward(self, rows: Tensor | None, size: int) -> None:
        """Count one forward pass of ``size`` images with indices ``rows``, else the first ones."""
        self.total_passes += size
        _add_counts(self._forward_counts, rows, size)
        record_watched_passes(self, rows, size, size)

    def add_backward(self, rows: Tensor | None, size: int, times: int = 1) -> None:
        """Count ``times`` backward passes of ``size`` images with indices ``rows``, else the first ones."""
        self.total_passes += size * times
        _add_counts(self._backward_counts, rows, size, times)
        record_watched_passes(self, rows, size, size * times)

    def add_gradient_step(self, rows: Tensor | None, size: int) -> None:
        """Count one gradient of each of ``size`` images with indices ``rows``, else the first ones."""
        _add_counts(self._gradient_steps, rows, size)

    def add_faults(self, rows: Tensor | None, faults: GradientFaults) -> None:
        """Count gradient faults of the images with indices ``rows``, else the first ones."""
        counts = [faults.nonfinite_entries, faults.nonfinite, faults.is_zero, faults.unconfirmed]
        which = torch.arange(len(faults.nonfinite_entries)) if rows is None else rows
        fault_rows = torch.stack([count.to(self._fault_counts) for count in counts])
        self._fault_counts.index_add_(1, which.to(self._fault_counts.device), fault_rows)

    def add_repairs(self, rows: Tensor | None, repaired: Tensor, spent: PassCounter) -> None:
        """Count the cost of gradient repairs.

        Args:
            rows: The image of each row, else the first ones.
            repaired: (N,) boolean: the rows whose gradients were repaired; others were computed along with
                them.
            spent: The cost, per row.
        """
        which = torch.arange(len(repaired)) if rows is None else rows
        which = which.to(self._forward_counts.device)
        for counts, more in (
            (self._forward_counts, spent._forward_counts),
            (self._backward_counts, spent._backward_counts),
        ):
            counts.index_add_(0, which, more * repaired.to(more))
        self.total_passes += spent.total_passes


def _add_counts(counts: Tensor, rows: Tensor | None, size: int, times: int = 1) -> None:
    if rows is None:
        if size > len(counts):
            raise InvariantError(f"{size} images went through the model while {len(counts)} are measured")
        counts[:size] += times
        return
    if len(rows) != size:
        raise InvariantError(f"{len(rows)} row numbers for {size} images")
    rows = rows.to(counts.device)
    counts.index_add_(0, rows, _build_ones(size, counts.device), alpha=times)


@lru_cache(maxsize=256)
def _build_ones(size: int, device: torch.device) -> Tensor:
    """Return a tensor of ones that must not be changed."""
    return torch.ones(size, dtype=torch.int64, device=device)
