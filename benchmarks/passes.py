"""The passes that somebody made, by the size of their batches, and what the same ones cost without him."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

_TIMING_REPEATS = 5
"""Bare passes are short: so many are timed at once."""


@dataclass(kw_only=True)
class PassCounts:
    """How often a network was asked, and how often it was gone back through, by the size of the batch."""

    forward: Counter[int] = field(default_factory=Counter)
    backward: Counter[int] = field(default_factory=Counter)

    def compute_per_image(self, images: int) -> tuple[float, float]:
        """Forward and backward passes an image, of so many images."""
        forward, backward = (
            sum(size * times for size, times in counts.items()) / images
            for counts in (self.forward, self.backward)
        )
        return forward, backward

    @contextmanager
    def count_passes(self, network: nn.Module) -> Iterator[None]:
        """Count what goes through ``network`` while open."""
        hook = network.register_forward_hook(self._count_pass)
        try:
            yield
        finally:
            hook.remove()

    def _count_pass(self, network: nn.Module, inputs: Any, logits: Tensor) -> None:  # noqa: ARG002
        size = len(logits)
        self.forward[size] += 1
        if logits.requires_grad:
            logits.register_hook(lambda _: self.backward.update((size,)))


class BarePassTimer:
    """What passes cost with nothing beside them: the network with frozen parameters, timed when asked for.

    A pass of a small batch costs more an image than one of a large batch, so every size counts for itself.
    Sizes between two that were timed cost what lies between.

    Args:
        network: The whole, pixels to logits.
        images: Some images; repeated where a batch needs more.
        clock: Seconds that a call takes.
    """

    def __init__(
        self, network: nn.Module, images: Tensor, clock: Callable[[Callable[[], object]], float]
    ) -> None:
        self._network, self._images, self._clock = network, images, clock
        self._known: dict[tuple[int, bool], float] = {}

    def estimate_seconds(self, passes: PassCounts) -> float:
        """Time for the same passes."""
        total = 0.0
        for size, times in passes.forward.items():
            back = min(passes.backward[size], times)
            total += (times - back) * self._estimate_pass_seconds(
                size, back=False
            ) + back * self._estimate_pass_seconds(size, back=True)
            # several ways back through one look: each costs what the way back adds
            more = passes.backward[size] - back
            total += (
                more
                * (
                    self._estimate_pass_seconds(size, back=True)
                    - self._estimate_pass_seconds(size, back=False)
                )
                if more
                else 0.0
            )
        return total

    def _estimate_pass_seconds(self, size: int, *, back: bool) -> float:
        """Seconds of one pass."""
        rungs = self._timed_sizes
        place = bisect_left(rungs, size)
        if place == len(rungs) or rungs[place] == size:
            return self._measure_pass_seconds(size, back=back)
        low, high = rungs[place - 1], rungs[place]
        share = (size - low) / (high - low)
        return (1 - share) * self._measure_pass_seconds(low, back=back) + share * self._measure_pass_seconds(
            high, back=back
        )

    @cached_property
    def _timed_sizes(self) -> list[int]:
        """The sizes that are timed: powers of two, what lies in the middle, and that of all images."""
        powers = [2**power for power in range(13)]
        return sorted({*powers, *(3 * power for power in powers), len(self._images)})

    def _measure_pass_seconds(self, size: int, *, back: bool) -> float:
        key = (size, back)
        if key not in self._known:
            batch = self._images[torch.arange(size, device=self._images.device) % len(self._images)]
            run = (
                (lambda: self._run_forward_and_backward(batch))
                if back
                else (lambda: self._run_forward(batch))
            )
            run()
            self._known[key] = self._clock(lambda: [run() for _ in range(_TIMING_REPEATS)]) / _TIMING_REPEATS
        return self._known[key]

    @torch.no_grad()
    def _run_forward(self, batch: Tensor) -> None:
        self._network(batch)

    def _run_forward_and_backward(self, batch: Tensor) -> None:
        leaf = batch.detach().requires_grad_()
        torch.autograd.grad(self._network(leaf).sum(), leaf)
