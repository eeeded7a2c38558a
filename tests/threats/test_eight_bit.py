"""8-bit images in a ball, against every image of the grid where there are few enough to look at them all."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from robustbench_local.evaluation.harness.verify import find_ball_violations
from robustbench_local.threats.eight_bit import has_8bit_choice, round_to_8bit
from robustbench_local.threats.lp_ball import compute_norms
from robustbench_local.threats.threat_model import ThreatModel

L2 = ThreatModel(norm="L2", eps=0.5)


@pytest.mark.parametrize(("eps", "levels"), [("8/255", 8), (0.031, 7), ("1/255", 1), (0.0039, 0)])
def test_eight_bit_rounding_stays_in_the_linf_ball(eps, levels):
    images = torch.randint(0, 256, (20, 3, 5, 5), generator=torch.Generator().manual_seed(1)).float() / 255
    threat = ThreatModel(norm="Linf", eps=eps)
    candidates = images + threat.eps * torch.sign(
        torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    )
    rounded, exists = round_to_8bit(candidates.clamp(0, 1), images, threat)
    assert exists.all()
    assert (rounded * 255 - (rounded * 255).round()).abs().max() < 1e-4
    assert (rounded * 255 - images * 255).abs().max().round().item() == levels
    assert not any(find_ball_violations(rounded, images, threat))


def test_eight_bit_rounding_stays_in_the_l2_ball():
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (50, 3, 8, 8), generator=generator).float() / 255
    delta = torch.randn(images.shape, generator=generator)
    delta *= L2.eps / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    candidates = (images + delta).clamp(0, 1)
    rounded, exists = round_to_8bit(candidates, images, L2)
    assert exists.all()
    assert not any(find_ball_violations(rounded, images, L2))
    assert not torch.equal(rounded, images)


def test_an_original_off_the_grid_may_have_no_8bit_image_in_the_ball():
    images = torch.full((1, 1, 2, 2), 100.5 / 255)
    _, exists = round_to_8bit(images + 0.001, images, ThreatModel(norm="Linf", eps=0.001))
    assert not exists.item()


def grid_in_ball(original: Tensor, threat: ThreatModel) -> Tensor:
    """Every 8-bit image in the ball around one original, (M, C, H, W), by trying all that are near."""
    near = [range(max(0, int(v) - 5), min(255, int(v) + 6) + 1) for v in (original * 255).flatten().tolist()]
    images = torch.tensor(list(itertools.product(*near)), dtype=torch.float64).view(-1, *original.shape) / 255
    reach = threat.eps + 1e-6 if threat.norm == "Linf" else threat.eps * (1 + 1e-5)
    return images[compute_norms(images - original.double(), threat.norm) <= reach]


@pytest.mark.parametrize(
    "threat",
    [ThreatModel(norm=norm, eps=eps) for norm, eps in (("Linf", 0.011), ("L2", 0.0131), ("L1", 0.0163))],
    ids=str,
)
@pytest.mark.parametrize("off_grid", [False, True])
def test_no_8bit_image_that_is_as_near_to_the_original_is_nearer_to_the_candidate(threat, off_grid):
    generator = torch.Generator().manual_seed(4)
    originals = torch.randint(0, 256, (40, 1, 1, 3), generator=generator).float() / 255
    if off_grid:
        originals = (originals + 0.4 / 255 * torch.rand(originals.shape, generator=generator)).clamp(0, 1)
    change = torch.randn(originals.shape, generator=generator)
    change *= threat.eps / compute_norms(change, threat.norm).view(-1, 1, 1, 1)
    candidates = (originals + change).clamp(0, 1)
    rounded, exists = round_to_8bit(candidates, originals, threat)
    assert torch.equal(round_to_8bit(rounded, originals, threat)[0], rounded)
    for row, original in enumerate(originals):
        there = grid_in_ball(original, threat)
        assert bool(exists[row]) == (len(there) > 0)
        if not exists[row]:
            continue
        assert (there - rounded[row]).flatten(1).abs().amax(dim=1).min() < 1e-6  # it is one of them
        if threat.norm == "Linf":
            nearest = compute_norms(there - candidates[row], "L2").min().item()
            assert (rounded[row] - candidates[row]).norm().item() == pytest.approx(nearest, abs=1e-6)
        elif not off_grid and threat.norm == "L2":
            reach = compute_norms(rounded[row : row + 1].double() - original, "L2") + 1e-9
            as_near = there[compute_norms(there - original, "L2") <= reach]
            best = compute_norms(as_near - candidates[row], "L2").min()
            assert compute_norms(rounded[row : row + 1] - candidates[row : row + 1], "L2") <= best + 1e-6


def test_a_change_of_less_than_a_level_a_pixel_is_not_lost_as_a_whole():
    originals = torch.full((1, 1, 32, 32), 100 / 255)
    change = torch.rand(originals.shape, generator=torch.Generator().manual_seed(0)) * 1.4 / 255
    threat = ThreatModel(norm="L2", eps=float(change.flatten().norm()))
    rounded, exists = round_to_8bit(originals + change, originals, threat)
    assert exists.item()
    assert not any(find_ball_violations(rounded, originals, threat))
    assert compute_norms(rounded - originals, "L2") > 0.95 * threat.eps


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_there_is_a_choice_where_the_ball_holds_two_8bit_images(norm):
    generator = torch.Generator().manual_seed(5)
    level = torch.randint(0, 256, (60, 1, 1, 2), generator=generator)
    on_grid, off_grid = level.float() / 255, (level + torch.rand(level.shape, generator=generator)) / 255
    counts = set()
    for originals in (on_grid, off_grid.clamp(0, 1)):
        for eps in (0.3 / 255, 0.7 / 255, 0.999 / 255, "1/255", 1.3 / 255, "2/255"):
            threat = ThreatModel(norm=norm, eps=eps)
            there = [min(len(grid_in_ball(original, threat)), 2) for original in originals]
            assert has_8bit_choice(originals, threat).tolist() == [count == 2 for count in there]
            counts |= set(there)
    assert counts == {0, 1, 2}


def test_a_mask_leaves_what_it_leaves_to_choose():
    originals = torch.full((2, 1, 2, 2), 100.5 / 255)
    masks = torch.zeros(2, 1, 2, 2, dtype=torch.bool)
    masks[0, 0, 0, 0] = True
    threat = ThreatModel(norm="Linf", eps="1/255", region="mask")
    assert has_8bit_choice(originals, threat, masks).tolist() == [True, False]
    candidates = torch.where(masks, originals + 0.6 / 255, originals)
    rounded, exists = round_to_8bit(candidates, originals, threat)
    assert exists.tolist() == [True, True]  # what is not touched need not lie on the grid
    assert (rounded != originals).sum() == 1
    assert rounded[0, 0, 0, 0] * 255 == pytest.approx(101)
