"""Total variation and printable colours in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from robustbench_local.threats.physical.printability import (
    PRINTABLE_COLOURS,
    compute_non_printability,
    compute_total_variation,
)

ALL = torch.ones(1, 1, 4, 4, dtype=torch.bool)


def test_total_variation_is_the_mean_step_between_neighbours_in_the_mask():
    steps = torch.zeros(1, 3, 4, 4)
    steps[..., 2:] = 0.6
    assert float(compute_total_variation(steps, ALL)) == pytest.approx(
        0.6 * 4 / 24
    )  # 4 of 24 neighbouring pairs
    left = ALL.clone()
    left[..., 2:] = False
    assert float(compute_total_variation(steps, left)) == 0
    assert float(compute_total_variation(steps, torch.zeros_like(ALL))) == 0


def test_printable_colours_cost_nothing_and_others_their_distance():
    assert len(set(PRINTABLE_COLOURS)) == 30
    own = torch.tensor(PRINTABLE_COLOURS[:16]).float().view(1, 4, 4, 3).permute(0, 3, 1, 2) / 255
    assert float(compute_non_printability(own, ALL)) == pytest.approx(0, abs=2e-6)
    white = torch.ones(1, 3, 4, 4)
    nearest = min(math.dist((255, 255, 255), colour) for colour in PRINTABLE_COLOURS) / 255
    assert float(compute_non_printability(white, ALL)) == pytest.approx(nearest)
    assert float(compute_non_printability(white[:, :1], ALL)) == pytest.approx(
        nearest
    )  # gray pictures have grays
    assert float(compute_non_printability(white, torch.zeros_like(ALL))) == 0


def test_both_pull_only_at_the_mask():
    pictures = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    mask[..., :2] = True
    cost = compute_total_variation(pictures, mask) + compute_non_printability(pictures, mask)
    (slope,) = torch.autograd.grad(cost.sum(), pictures)
    assert slope.isfinite().all()
    assert not slope[..., 2:].any()
    assert (slope[..., :2].abs().amax(dim=1) > 0).all()
