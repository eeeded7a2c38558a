"""Projections onto a hyperplane inside the box, against linear programmes, sorting and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from robustbench_local.attacks.core.hyperplane_projection import (
    compute_hyperplane_step,
    compute_sparse_step,
)
from robustbench_local.attacks.core.top_mass import select_top_mass
from robustbench_local.threats.lp_ball import compute_norms

NORMS = ["Linf", "L2", "L1"]


def problem(rows: int, size: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points with many black and white pixels, heavy-tailed normals, gaps of both signs within reach."""
    generator = torch.Generator().manual_seed(seed)
    points = (2 * torch.rand(rows, size, generator=generator) - 0.5).clamp(0, 1)
    normals = torch.randn(rows, size, generator=generator) ** 3
    normals[:, ::5] = 0
    up = torch.where(normals > 0, 1 - points, points).mul(normals.abs()).sum(dim=1)
    down = torch.where(normals > 0, points, 1 - points).mul(normals.abs()).sum(dim=1)
    share = torch.rand(rows, generator=generator) ** 2 * 0.95
    gaps = torch.where(torch.arange(rows) % 3 == 0, share * down, -share * up)
    return points, normals, gaps


def programme(point: Tensor, normal: Tensor, gap: Tensor, norm: str) -> float:
    """The smallest Linf or L1 norm, by linear programming on d = plus - minus."""
    size = len(point)
    x, w = point.double().numpy(), normal.double().numpy()
    bounds = [(0, 1 - value) for value in x] + [(0, value) for value in x]
    equality = np.concatenate([w, -w])
    if norm == "L1":
        found = linprog(np.ones(2 * size), A_eq=equality[None], b_eq=[-float(gap)], bounds=bounds)
        return float(found.fun)
    both = np.hstack([np.eye(size), np.eye(size), -np.ones((size, 1))])
    cost = np.append(np.zeros(2 * size), 1.0)
    equality = np.append(equality, 0.0)[None]
    found = linprog(
        cost, A_ub=both, b_ub=np.zeros(size), A_eq=equality, b_eq=[-float(gap)], bounds=[*bounds, (0, None)]
    )
    return float(found.fun)


def by_sorting(points: Tensor, normals: Tensor, gaps: Tensor, norm: str) -> Tensor:
    """The smallest norms in float64: the pixels are taken in the order in which they reach the box."""
    x, w, need = points.double(), normals.double(), gaps.double().abs()[:, None]
    ahead = torch.where(w.sign() * gaps.sign()[:, None] < 0, 1 - x, x)
    weights, room = w.abs(), torch.where(w == 0, 0.0, ahead)
    if norm == "L1":
        order = weights.argsort(dim=1, descending=True)
        weights, room = weights.gather(1, order), room.gather(1, order)
        before = (weights * room).cumsum(dim=1) - weights * room
        return ((need - before) / weights.clamp_min(1e-300)).clamp(min=0).minimum(room).sum(dim=1)
    rates = weights if norm == "L2" else torch.ones_like(weights)
    full = torch.where(weights > 0, room / rates.clamp_min(1e-300), torch.inf)
    order = full.argsort(dim=1)
    full, weights, room, rates = (part.gather(1, order) for part in (full, weights, room, rates))
    done = (weights * room).cumsum(dim=1) - weights * room
    slope = (weights * rates).flip(1).cumsum(dim=1).flip(1)
    levels = (need - done) / slope.clamp_min(1e-300)
    first = (levels <= full).double().argmax(dim=1, keepdim=True)
    amounts = (levels.gather(1, first) * rates).minimum(room) * (weights > 0)
    return compute_norms(amounts, norm)


@pytest.mark.parametrize("norm", ["Linf", "L1"])
def test_linear_programmes_find_nothing_smaller(norm: str):
    points, normals, gaps = problem(12, 9, seed=1)
    found = compute_hyperplane_step(points, normals, gaps, norm)
    best = torch.tensor(
        [programme(*row, norm) for row in zip(points, normals, gaps, strict=True)], dtype=torch.float64
    )
    assert torch.allclose(compute_norms(found.double(), norm), best, atol=1e-6)


@pytest.mark.parametrize("size", [6, 300])
@pytest.mark.parametrize("norm", NORMS)
def test_norms_are_those_of_the_sorting_solution_and_the_plane_is_met(norm: str, size: int):
    points, normals, gaps = problem(60, size, seed=2)
    found = compute_hyperplane_step(points, normals, gaps, norm)
    scale = normals.abs().sum(dim=1)
    assert ((gaps + (normals * found).sum(dim=1)).abs() <= 1e-6 * scale).all()
    assert ((points + found >= -1e-7) & (points + found <= 1 + 1e-7)).all()
    best = by_sorting(points, normals, gaps, norm)
    assert torch.allclose(compute_norms(found.double(), norm), best, rtol=2e-5, atol=1e-6)
    assert float(best.min()) < 0.5 * float(best.max())


def test_no_feasible_direction_is_shorter_under_l2():
    points, normals, gaps = problem(20, 4, seed=3)
    found = compute_hyperplane_step(points, normals, gaps, "L2")
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        other = torch.rand(points.shape, generator=generator) - points
        reach = (normals * other).sum(dim=1)
        share = -gaps / reach
        feasible = (share >= 0) & (share <= 1)
        assert (compute_norms(other * share[:, None], "L2") >= compute_norms(found, "L2") - 1e-6)[
            feasible
        ].all()


@pytest.mark.parametrize("norm", NORMS)
def test_out_of_reach_leads_to_the_nearest_corner(norm: str):
    points = torch.tensor([[0.2, 0.7, 0.5, 0.4]]).repeat(2, 1)
    normals = torch.tensor([[1.0, -1e-3, 0.0, 2.0]]).repeat(2, 1)
    found = compute_hyperplane_step(points, normals, torch.tensor([-5.0, 5.0]), norm)
    assert torch.allclose(found, torch.tensor([[0.8, -0.7, 0.0, 0.6], [-0.2, 0.3, 0.0, -0.4]]))


@pytest.mark.parametrize("norm", NORMS)
def test_where_there_is_nothing_to_do_nothing_moves(norm: str):
    points = torch.tensor([[0.3, 0.6], [0.3, 0.6], [1.0, 0.0]])
    normals = torch.tensor([[0.0, 0.0], [1.0, 2.0], [1.0, -1.0]])
    gaps = torch.tensor([-1.0, 0.0, -1.0])
    assert torch.equal(compute_hyperplane_step(points, normals, gaps, norm), torch.zeros(3, 2))


@pytest.mark.parametrize("scale", [1e-25, 1e20])
@pytest.mark.parametrize("norm", NORMS)
def test_the_scale_of_the_normal_does_not_matter(norm: str, scale: float):
    points, normals, gaps = problem(30, 50, seed=4)
    plain = compute_hyperplane_step(points, normals, gaps, norm)
    scaled = compute_hyperplane_step(points, normals * scale, gaps * scale, norm)
    assert torch.allclose(scaled, plain, atol=1e-5)


def test_selections_are_the_largest_entries():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(40, 200, generator=generator) ** 4
    values[:5] = values[:5].round(decimals=1)
    counts = torch.arange(1, 41)[:, None]
    cut = select_top_mass(values, torch.ones_like(values), counts - 0.5)
    for row, count, low in zip(values, counts.flatten().tolist(), cut.low, strict=True):
        least = row.topk(count).values[-1]
        assert torch.equal(row > low, (row >= least) & (row > 0))
    assert (cut.mass_high <= counts - 0.5).all()
    assert (cut.mass_low >= counts - 0.5)[5:].all()
    whole = select_top_mass(values, torch.ones_like(values), torch.full((40, 1), 1000.0))
    assert not whole.low.any()


def sparse_programme(row: tuple[Tensor, ...]) -> float:
    """The smallest L1 distance to the original, by linear programming on the result and its distances."""
    point, original, normal, gap, low, high = (part.double().numpy() for part in row)
    size, unit = len(point), np.eye(len(point))
    far = np.vstack([np.hstack([unit, -unit]), np.hstack([-unit, -unit])])
    beyond = np.append(-normal, np.zeros(size))[None]
    found = linprog(
        np.append(np.zeros(size), np.ones(size)),
        A_ub=np.vstack([far, beyond]),
        b_ub=np.concatenate([original, -original, [float(gap) - normal @ point]]),
        bounds=[*zip(low, high, strict=True), *[(0, None)] * size],
    )
    return float(found.fun)


def test_sparse_steps_are_optimal_in_a_box_that_lacks_the_original():
    points, normals, gaps = problem(12, 9, seed=3)
    originals = problem(12, 9, seed=4)[0]
    low, high = (points - 0.3).clamp_min(0), (points + 0.3).clamp_max(1)
    room = torch.where(normals > 0, high - points, points - low)
    gaps = torch.where(gaps < 0, -0.7 * (normals.abs() * room).sum(dim=1), gaps)
    rows = (points, originals, normals, gaps, low, high)
    reached = points + compute_sparse_step(*rows)
    assert (reached >= low - 1e-6).all()
    assert (reached <= high + 1e-6).all()
    assert (gaps + ((reached - points) * normals).sum(dim=1) >= -1e-5).all()
    best = torch.tensor([sparse_programme(row) for row in zip(*rows, strict=True)], dtype=torch.float64)
    assert torch.allclose(compute_norms((reached - originals).double(), "L1"), best, atol=1e-5)


def test_a_sparse_step_without_a_solution_goes_as_far_as_it_can():
    points, normals, _ = problem(6, 9, seed=5)
    low, high = (points - 0.1).clamp_min(0), (points + 0.1).clamp_max(1)
    step = compute_sparse_step(points, points, normals, torch.full((6,), -1e3), low, high)
    wanted = torch.where(normals > 0, high, torch.where(normals < 0, low, points))
    assert torch.allclose(points + step, wanted, atol=1e-6)
    nothing = compute_sparse_step(points, points, torch.zeros_like(points), torch.zeros(6), low, high)
    assert not nothing.any()
