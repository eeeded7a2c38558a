"""The floor under an attack's time: its passes, counted by the size of the batch, and what they cost bare."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.memory import measure_peak_mib
from benchmarks.passes import BarePassTimer, PassCounts

IMAGES = torch.rand((6, 1, 2, 2), generator=torch.Generator().manual_seed(0))


class Watched(nn.Module):
    """Linear in the pixels; remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.asked: list[tuple[int, bool]] = []

    def forward(self, images):
        self.asked.append((len(images), images.requires_grad))
        return self.layer(images.flatten(1))


def test_passes_are_counted_by_the_size_of_their_batch_also_several_back_through_one_look():
    network, passes = Watched(), PassCounts()
    with passes.count_passes(network):
        network(IMAGES)
        network(IMAGES[:2])
        leaf = IMAGES[:3].clone().requires_grad_()
        logits = network(leaf)
        torch.autograd.grad(logits[:, 0].sum(), leaf, retain_graph=True)
        torch.autograd.grad(logits[:, 1].sum(), leaf)
    network(IMAGES)
    assert passes.forward == Counter({6: 1, 2: 1, 3: 1})
    assert passes.backward == Counter({3: 2})
    assert passes.compute_per_image(6) == ((6 + 2 + 3) / 6, 2 * 3 / 6)


def test_the_same_passes_cost_what_their_sizes_cost():
    """By a clock that says a hundredth of a second a forward pass, one more an image, and twice that back."""
    network = Watched()

    def clock(run: Callable[[], object]) -> float:
        network.asked.clear()
        run()
        return sum((0.01 + 0.01 * size) * (3 if back else 1) for size, back in network.asked)

    bare = BarePassTimer(network, IMAGES, clock)
    # 1, 6 and 8 are timed, 5 and 7 lie between
    forward = PassCounts(forward=Counter({1: 10, 5: 2, 6: 1, 7: 1}))
    assert bare.estimate_seconds(forward) == pytest.approx(10 * 0.02 + 2 * 0.06 + 0.07 + 0.08)
    both = PassCounts(forward=Counter({6: 3}), backward=Counter({6: 2}))
    assert bare.estimate_seconds(both) == pytest.approx(0.07 + 2 * 0.21)
    several = PassCounts(forward=Counter({6: 1}), backward=Counter({6: 3}))
    assert bare.estimate_seconds(several) == pytest.approx(0.21 + 2 * 0.14)
    assert bare.estimate_seconds(PassCounts()) == 0


@pytest.mark.skipif(
    not hasattr(os, "fork") or not Path("/proc/self/clear_refs").exists(), reason="Linux only"
)
def test_memory_is_what_a_run_takes_beyond_its_warm_up_whatever_was_freed_before():
    def taking(mib: int) -> Callable[[], object]:
        return lambda: torch.ones(mib * 2**18).sum()

    before = [torch.ones(2**10) for _ in range(20_000)]  # 80 MiB that the allocator keeps when they are freed
    del before
    assert measure_peak_mib(taking(48), "cpu", taking(1)) == pytest.approx(48, abs=8)
    assert measure_peak_mib(taking(4), "cpu", taking(64)) == pytest.approx(4, abs=4)
