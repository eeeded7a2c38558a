"""L0: the number of changed pixels, against enumeration where the images are small enough."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from robustbench_local.errors import ThreatError
from robustbench_local.evaluation.harness.verify import find_ball_violations
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.eight_bit import has_8bit_choice, round_to_8bit
from robustbench_local.threats.lp_ball import (
    PerImageBalls,
    compute_norms,
    compute_tolerated_radius,
    project,
    project_to_box,
    sample_random_start,
)
from robustbench_local.threats.threat_model import ThreatModel


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_a_pixel_counts_once_whatever_number_of_its_channels_changes_and_however_little():
    change = torch.zeros(4, 3, 2, 2, dtype=torch.float64)
    change[1, 0, 0, 0] = 1e-300
    change[2, :, 0, 0] = 0.5
    change[3, 0, 0, 0], change[3, 1, 0, 1], change[3, 2, 1, 1] = 1.0, -1.0, 1.0
    assert compute_norms(change, "L0").tolist() == [0, 1, 1, 3]
    assert compute_norms(torch.tensor([[0.0, 2.0, -1.0]]), "L0").tolist() == [2]


@pytest.mark.parametrize(
    ("eps", "changed", "legal"), [(2, 2, True), (2, 3, False), (300_000, 300_001, False)]
)
def test_the_harness_tolerates_not_one_pixel_more(eps, changed, legal):
    side = 2 if changed < 5 else 600
    images = torch.full((1, 1, side, side), 0.5)
    candidate = images.clone()
    candidate.view(-1)[:changed] += 2.0**-24
    [reason] = find_ball_violations(candidate, images, ThreatModel(norm="L0", eps=eps))
    assert (reason is None) == legal
    assert legal or "leaves the ball: L0" in reason
    assert compute_tolerated_radius("L0", eps) == eps


def test_eps_is_a_whole_number_of_pixels():
    assert ThreatModel(norm="l_0", eps="12").name == "l0-12"
    assert ThreatModel(norm="L0", eps=0).is_ball
    with pytest.raises(ThreatError, match=r"number of pixels, got 0\.5"):
        ThreatModel(norm="L0", eps=0.5)
    with pytest.raises(ThreatError, match="number of pixels"):
        ThreatModel(norm="L0", eps="8/255")


@pytest.mark.parametrize("eps", [0, 1, 2, 3, 4, 9])
def test_the_projection_is_the_nearest_image_among_all_choices_of_pixels(eps):
    images = draw(6, 2, 2, 2)
    wanted = images + 3 * (draw(6, 2, 2, 2, seed=1) - 0.5)  # often outside the box
    projected = project_to_box(wanted, images, ThreatModel(norm="L0", eps=eps))
    assert compute_norms(projected - images, "L0").max() <= eps
    boxed, distances = wanted.clamp(0, 1), []
    for chosen in itertools.combinations(range(4), min(eps, 4)):
        mask = torch.zeros(4, dtype=torch.bool)
        mask[list(chosen)] = True
        distances.append((torch.where(mask.view(2, 2), boxed, images) - wanted).flatten(1).norm(dim=1))
    nearest = torch.stack(distances).amin(dim=0)
    assert torch.allclose((projected - wanted).flatten(1).norm(dim=1), nearest, atol=1e-6)


def test_the_projection_keeps_the_bits_of_all_other_pixels_and_is_the_same_in_any_batch():
    images, wanted = draw(8, 3, 4, 4), draw(8, 3, 4, 4, seed=1)
    masks = draw(8, 1, 4, 4, seed=2) > 0.5
    ball = PerImageBalls("L0", torch.arange(8.0))
    projected = project_to_box(wanted, images, ball, masks)
    changed = (projected != images).any(dim=1, keepdim=True)
    assert not (changed & ~masks).any()
    assert torch.equal(
        changed.flatten(1).sum(dim=1), torch.minimum(ball.eps.long(), masks.flatten(1).sum(dim=1))
    )
    assert torch.equal(torch.where(changed, wanted, images), projected)
    for row in range(8):
        alone = PerImageBalls("L0", ball.eps[row : row + 1])
        part = slice(row, row + 1)
        assert torch.equal(project_to_box(wanted[part], images[part], alone, masks[part]), projected[part])
    equal = project(torch.ones(1, 1, 2, 2), ThreatModel(norm="L0", eps=2))  # among equals, the first ones
    assert equal.flatten().tolist() == [1, 1, 0, 0]


def test_a_random_start_changes_that_number_of_pixels_each_as_often_as_the_others():
    ids = tuple(map(str, range(400)))
    threat = ThreatModel(norm="L0", eps=3)
    delta = sample_random_start(RandomStream(0, ids, "a"), (3, 3, 3), threat, draw="start", device="cpu")
    changed = (delta != 0).any(dim=1).flatten(1)
    assert (changed.sum(dim=1) == 3).all()
    assert changed.float().mean(dim=0).sub(1 / 3).abs().max() < 0.08
    masks = torch.zeros(400, 1, 3, 3, dtype=torch.bool)
    masks[..., :2] = True
    masked = sample_random_start(
        RandomStream(0, ids, "a"), (3, 3, 3), threat, draw="start", device="cpu", masks=masks
    )
    assert (compute_norms(masked, "L0") == 3).all()
    assert not (masked * ~masks).any()


def test_rounding_to_8bit_changes_no_further_pixel_even_off_the_grid():
    images = draw(10, 3, 4, 4)
    threat = ThreatModel(norm="L0", eps=5)
    candidates = project_to_box(draw(10, 3, 4, 4, seed=1), images, threat)
    rounded, exists = round_to_8bit(candidates, images, threat)
    changed = candidates != images
    assert exists.all()
    assert torch.equal(rounded[~changed], images[~changed])
    assert torch.equal((rounded[changed] * 255).round() / 255, rounded[changed])
    assert not any(find_ball_violations(rounded, images, threat))
    assert has_8bit_choice(images, threat).all()
    assert not has_8bit_choice(images, threat, torch.zeros(10, 1, 4, 4, dtype=torch.bool)).any()
    assert not has_8bit_choice(images, ThreatModel(norm="L0", eps=0)).any()
