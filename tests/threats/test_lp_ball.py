"""Norms, projections, starts and steps against their definitions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from robustbench_local.errors import ThreatError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import (
    PerImageBalls,
    compute_norms,
    compute_steepest_step,
    merge_rows,
    project,
    project_to_box,
    sample_random_start,
)
from robustbench_local.threats.threat_model import ThreatModel

NORMS = st.sampled_from(["Linf", "L2", "L1"])
EPS = st.sampled_from([1e-6, 1e-4, 1e-3, 0.01, 8 / 255, 0.1, 0.5, 1.0, 4.0])
STREAM = RandomStream(0, tuple(map(str, range(2000))), "start")


def tensors(low: float, high: float, seed: int, shape: tuple[int, ...] = (6, 3, 4, 5)) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * (high - low) + low


@dataclass(frozen=True)
class OtherBall:
    norm: str = "L7"
    eps: float = 1.0


def test_norms_by_hand():
    delta = torch.tensor([[[[3.0, -4.0]]], [[[0.0, 0.0]]]])
    assert compute_norms(delta, "Linf").tolist() == [4.0, 0.0]
    assert compute_norms(delta, "L2").tolist() == [5.0, 0.0]
    assert compute_norms(delta.double(), "L2").dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chosen_rows_are_those_rows_to_the_bit(dtype: torch.dtype):
    ours, theirs = (
        tensors(-1, 1, 0, (40, 3, 5, 7)).to(dtype),
        tensors(-1e-30, 1e30, 1, (40, 3, 5, 7)).to(dtype),
    )
    rows = tensors(0, 1, 2, (40,)) < 0.5
    assert torch.equal(merge_rows(rows, ours, theirs), torch.where(rows[:, None, None, None], ours, theirs))


@given(norm=NORMS, eps=EPS, seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_projection_is_inside_idempotent_and_leaves_inside_points_alone(norm: str, eps: float, seed: int):
    threat, delta = ThreatModel(norm=norm, eps=eps), tensors(-1.0, 1.0, seed)
    once = project(delta, threat)
    assert (compute_norms(once, norm) <= eps * (1 + 1e-6)).all()
    assert torch.allclose(project(once, threat), once, atol=1e-7)
    inside = compute_norms(delta, norm) <= eps
    assert torch.equal(once[inside], delta[inside])


@given(norm=NORMS, eps=EPS, seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_projection_is_the_nearest_point_of_the_ball(norm: str, eps: float, seed: int):
    threat, delta = ThreatModel(norm=norm, eps=eps), tensors(-1.0, 1.0, seed).double()
    nearest = compute_norms(delta - project(delta, threat), "L2")
    others = project(tensors(-1.0, 1.0, seed + 1).double() * 2, threat)
    assert (nearest <= compute_norms(delta - others, "L2") + 1e-9).all()


@given(norm=NORMS, eps=EPS, seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_candidates_come_back_into_ball_and_box_around_the_original(norm: str, eps: float, seed: int):
    threat, originals = ThreatModel(norm=norm, eps=eps), tensors(0.0, 1.0, seed)
    candidates = project_to_box(tensors(-2.0, 3.0, seed + 1), originals, threat)
    assert (candidates >= 0).all()
    assert (candidates <= 1).all()
    size = compute_norms(candidates.double() - originals.double(), norm)
    assert (size <= (eps + 1e-6 if norm == "Linf" else eps * (1 + 1e-5))).all()


def test_linf_candidates_are_the_nearest_point_of_the_intersection():
    threat = ThreatModel(norm="Linf", eps="8/255")
    originals, wild = tensors(0.0, 1.0, 1), tensors(-0.5, 1.5, 2)
    low, high = (originals - 8 / 255).clamp(0, 1), (originals + 8 / 255).clamp(0, 1)
    expected = torch.maximum(torch.minimum(wild, high), low)
    assert torch.equal(project_to_box(wild, originals, threat), expected)


@given(eps=EPS, seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_l1_candidates_are_the_nearest_point_of_the_intersection(eps: float, seed: int):
    threat = ThreatModel(norm="L1", eps=eps)
    originals, wild = tensors(0.0, 1.0, seed).double(), tensors(-2.0, 3.0, seed + 1).double()
    nearest = project_to_box(wild, originals, threat)
    # the projection onto a convex set is the point from which every other one lies behind the tangent plane
    others = project_to_box(tensors(-3.0, 4.0, seed + 2).double(), originals, threat)
    for other in (others, originals):
        assert (((wild - nearest) * (other - nearest)).flatten(1).sum(dim=1) <= 1e-6).all()


def test_each_image_may_have_a_radius_of_its_own():
    originals, wild = tensors(0.0, 1.0, 1), tensors(-2.0, 3.0, 2)
    radii = torch.tensor([0.1, 0.2, 0.0, 1.0, 0.3, 0.05])
    for norm in ("Linf", "L2", "L1"):
        together = project_to_box(wild, originals, PerImageBalls(norm, radii))
        for row, eps in enumerate(radii.tolist()):
            alone = project_to_box(
                wild[row : row + 1], originals[row : row + 1], ThreatModel(norm=norm, eps=eps)
            )
            assert torch.allclose(together[row : row + 1], alone, atol=1e-6)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_outside_the_mask_the_bits_are_the_originals(norm: str):
    originals = tensors(0.0, 1.0, 3)
    masks = tensors(0.0, 1.0, 4, (6, 1, 4, 5)) > 0.5
    threat = ThreatModel(norm=norm, eps=0.3, region="mask")
    candidates = project_to_box(originals + tensors(-1.0, 1.0, 5), originals, threat, masks)
    outside = ~masks.expand_as(originals)
    assert torch.equal(candidates[outside], originals[outside])
    assert (candidates[~outside] != originals[~outside]).float().mean() > 0.9
    # the whole L2 budget is spent inside the mask, not shared with pixels that are thrown away
    if norm == "L2":
        size = compute_norms(
            project_to_box(torch.full_like(originals, 9.0), originals * 0, threat, masks), "L2"
        )
        assert torch.allclose(size, torch.full_like(size, 0.3), atol=1e-6)


def test_linf_starts_are_uniform_in_the_cube():
    threat = ThreatModel(norm="Linf", eps=0.25)
    delta = sample_random_start(STREAM, (1, 2, 3), threat, draw=0, device="cpu")
    assert kstest(delta.flatten().numpy(), "uniform", args=(-0.25, 0.5)).pvalue > 0.001


@pytest.mark.parametrize("norm", ["L2", "L1"])
@pytest.mark.parametrize("masked", [False, True])
def test_starts_are_uniform_in_the_ball(norm: str, masked: bool):
    threat = ThreatModel(norm=norm, eps=0.7, region="mask" if masked else "image")
    mask = torch.tensor([[True, False, True], [True, False, False]])
    masks = mask.expand(2000, 1, 2, 3) if masked else None
    delta = sample_random_start(STREAM, (1, 2, 3), threat, draw=0, device="cpu", masks=masks)
    dimension = 3 if masked else 6
    radius = (compute_norms(delta, norm) / 0.7).numpy()
    assert kstest(radius, lambda r: np.clip(r, 0, 1) ** dimension).pvalue > 0.001
    direction = delta.flatten(1)[:, mask.flatten()] if masked else delta.flatten(1)
    assert float(direction.mean(dim=0).abs().max()) < 0.03
    if norm == "L1":  # one coordinate's share of a uniform point of the simplex
        share = (direction[:, 0].abs() / direction.abs().sum(dim=1)).numpy()
        assert kstest(share, "beta", args=(1, dimension - 1)).pvalue > 0.001
    if masked:
        assert not delta[:, :, ~mask].any()


def test_an_empty_mask_gives_no_start():
    threat = ThreatModel(norm="L2", eps=0.7, region="mask")
    masks = torch.zeros(2000, 1, 2, 2, dtype=torch.bool)
    assert not sample_random_start(STREAM, (3, 2, 2), threat, draw=0, device="cpu", masks=masks).any()


def test_steepest_directions():
    gradient = torch.tensor([[[[3.0, -4.0]]], [[[0.0, 0.0]]], [[[torch.nan, 1.0]]], [[[1e-30, torch.inf]]]])
    assert compute_steepest_step(gradient, "Linf").flatten(1).tolist() == [[1, -1], [0, 0], [0, 1], [1, 1]]
    assert torch.allclose(compute_steepest_step(gradient, "L2")[0], torch.tensor([[[0.6, -0.8]]]))
    assert compute_steepest_step(gradient, "L2")[1:].flatten(1).tolist() == [[0, 0], [0, 1], [1, 0]]
    assert compute_steepest_step(gradient, "L1")[2:].flatten(1).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-6, 1.0, 1e30])
def test_tiny_and_huge_gradients_still_give_a_unit_step(scale: float):
    gradient = tensors(-1.0, 1.0, 7) * scale
    assert torch.allclose(
        compute_norms(compute_steepest_step(gradient, "L2"), "L2"), torch.ones(6), atol=1e-5
    )


def test_unknown_norms_are_refused():
    delta = torch.zeros(1, 1, 1, 1)
    one = RandomStream(0, ("a",), "x")
    for call in (
        lambda: compute_norms(delta, "L7"),
        lambda: project(delta, OtherBall()),
        lambda: compute_steepest_step(delta, "L7"),
        lambda: sample_random_start(one, (1, 1, 1), OtherBall(), draw=0, device="cpu"),
    ):
        with pytest.raises(ThreatError, match="no geometry for norm 'L7'"):
            call()
