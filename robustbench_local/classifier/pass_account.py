"""The passes of one classifier: those of its open counters, and those made elsewhere on its behalf."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from robustbench_local.classifier.pass_counter import PassCounter


class PassAccount:
    """The pass counts of a classifier.

    Args:
        device: Device of the model, where passes are counted.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pass_counters: list[PassCounter] = []
        self._external_passes, self._worker_passes = [0, 0], 0

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self._device

    @contextmanager
    def count_passes(self, count: int, limit: int | None = None) -> Iterator[PassCounter]:
        """Count passes per image while open; the innermost open counter counts.

        Args:
            count: Number of images.
            limit: Maximum number of forward passes per image; a call that would exceed it fails instead.
        """
        counter = PassCounter(count, self._device, limit)
        self._pass_counters.append(counter)
        try:
            yield counter
        finally:
            self._pass_counters.remove(counter)

    @property
    def open_counter(self) -> PassCounter | None:
        """Return the innermost open counter, if any."""
        return self._pass_counters[-1] if self._pass_counters else None

    def queries_left(self, rows: Tensor | None = None) -> Tensor | None:
        """Return the remaining queries of images of the open counter, int64; None without a limit.

        Args:
            rows: The images, (N,), by default all.
        """
        return self._pass_counters[-1].queries_left(rows) if self._pass_counters else None

    def record_stage(self, rows: Tensor, stage: str) -> None:
        """Record the stage of an ensemble that found the candidates of these images of the open counter."""
        if self._pass_counters:
            self._pass_counters[-1].record_stage(rows, stage)

    @property
    def external_passes(self) -> tuple[int, int]:
        """Forward and backward passes of other libraries since they were last taken."""
        forward, backward = self._external_passes
        return forward, backward

    def take_external_passes(self) -> tuple[int, int]:
        """Return the passes of other libraries and reset their count."""
        taken = self.external_passes
        self._external_passes[:] = [0, 0]
        return taken

    def record_worker_passes(self, count: int) -> None:
        """Record the passes that worker processes have spent on their current work."""
        self._worker_passes = count

    def count_current_passes(self) -> int:
        """Count passes of the open counter, other libraries and workers; the number grows with the work."""
        own_passes = sum(counter.total_passes for counter in self._pass_counters[-1:])
        return self._worker_passes + sum(self._external_passes) + own_passes
