"""The simulation of many workers: what images cost, and that the real queue shares them."""

from __future__ import annotations

import pytest

from benchmarks.scaling.image_costs import (
    ALL_PASSES,
    REQUEST_OVERHEAD,
    STEP_OVERHEAD,
    compute_request_time,
    draw_image_passes,
)
from benchmarks.scaling.simulated_cluster import simulate_cluster_run
from benchmarks.scaling.simulated_pool import simulate_run


def test_the_time_of_a_request_is_that_of_its_steps():
    assert compute_request_time([10], 8) == REQUEST_OVERHEAD + 10 * (STEP_OVERHEAD + 1)
    # two side by side, then one alone
    both = 10 * (STEP_OVERHEAD + 2) + 20 * (STEP_OVERHEAD + 1)
    assert compute_request_time([10, 30], 8) == REQUEST_OVERHEAD + both
    # one at a time
    assert compute_request_time([10, 30], 1) == REQUEST_OVERHEAD + 40 * (STEP_OVERHEAD + 1)


@pytest.mark.parametrize("robust", [0.1, 0.5])
def test_most_images_fall_early_or_take_all_passes(robust):
    passes = draw_image_passes(2000, robust)
    assert (passes == ALL_PASSES).mean() == pytest.approx(robust, abs=0.03)
    assert ((passes < 500) | (passes == ALL_PASSES)).mean() > 0.93


def test_workers_of_unequal_images_wait_little_for_each_other():
    unequal = draw_image_passes(2000, 0.5)
    alone = simulate_run(unequal, 1, 64)
    assert 0.9 < alone / (8 * simulate_run(unequal, 8, 64)) < 1.01
    assert 0.9 < alone / (8 * simulate_cluster_run([unequal], 8, 64)) < 1.01


def test_cells_beside_each_other_use_the_workers_that_the_last_images_of_one_leave():
    cells = [draw_image_passes(500, 0.5, seed) for seed in range(4)]
    alone = sum(simulate_cluster_run([passes], 32, 64) for passes in cells)
    assert simulate_cluster_run(cells, 32, 64) < 0.8 * alone


def test_workers_of_equal_images_are_as_good_as_one():
    equal = draw_image_passes(512, 0.0) * 0 + 100
    alone, shared = simulate_run(equal, 1, 64), simulate_run(equal, 8, 64)
    assert alone / (8 * shared) == pytest.approx(1.0, abs=0.1)
