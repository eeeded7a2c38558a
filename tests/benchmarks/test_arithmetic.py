"""The floor beside which attacks are measured is the papers' attack: it finds what is there to find."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks import arithmetic
from benchmarks.job import BenchmarkJob
from benchmarks.passes import PassCounts

EPS = 0.03
DRAWS = torch.Generator().manual_seed(0)
IMAGES = torch.rand((12, 2, 4, 4), generator=DRAWS) * 0.6 + 0.2
SLOPE = torch.randn((2 * 4 * 4,), generator=DRAWS)


class Linear(nn.Module):
    """Class 1 above the middle of the images."""

    def __init__(self) -> None:
        super().__init__()
        self.level = float((IMAGES.flatten(1) @ SLOPE).median())

    def forward(self, images):
        height = images.flatten(1) @ SLOPE - self.level
        return torch.stack([-height, height], dim=1)


NETWORK = Linear()
HEIGHTS = IMAGES.flatten(1) @ SLOPE - NETWORK.level
LABELS = (HEIGHTS > 0).long()


def job(steps: int) -> BenchmarkJob:
    return BenchmarkJob(
        module=NETWORK, verdict_network=NETWORK, images=IMAGES, labels=LABELS,
        num_classes=2, eps=EPS, steps=steps, seed=0,
    )  # fmt: skip


@pytest.mark.parametrize(("method", "steps"), [("pgd", 20), ("apgd", 30)])
def test_gradient_methods_walk_to_the_corner_of_the_ball(method: str, steps: int):
    passes = PassCounts()
    with passes.count_passes(NETWORK):
        found = arithmetic.METHODS[method](job(steps))
    downhill = torch.where(LABELS[:, None] == 1, -1.0, 1.0) * SLOPE.sign()
    assert torch.allclose(found, IMAGES + EPS * downhill.view_as(IMAGES), atol=1e-6)
    assert passes.compute_per_image(len(IMAGES)) == (steps + 1, steps)


def test_square_breaks_what_can_be_broken_and_nothing_else():
    found = arithmetic.run_square(job(1500))
    assert (found - IMAGES).abs().max() <= EPS + 1e-6
    broken = NETWORK(found).argmax(dim=1) != LABELS
    reach = EPS * SLOPE.abs().sum()
    assert torch.equal(broken, HEIGHTS.abs() < reach)
    assert broken.any()
    assert not broken.all()
