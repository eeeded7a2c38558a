"""The estimate of the time that a run still takes: exact where it can be, covering where it is random."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from robustbench_local.cli.time_estimate import (
    MIN_SPEED_SECONDS,
    PRIOR_SPEED_SECONDS,
    CellWork,
    estimate_seconds_left,
)
from robustbench_local.evaluation.execution.cost_range import NO_COST, CostRange, compute_share_range
from robustbench_local.statistics import compute_wilson

CELL = CellWork(model="m", attack="a", images=100, max_passes=10_000, max_seconds=100.0)
"""A pass takes 10 ms, an image at most 100 passes."""


def test_without_a_finished_image_nothing_is_estimated():
    assert estimate_seconds_left([CELL]) is None
    assert estimate_seconds_left([]) == NO_COST
    assert estimate_seconds_left([replace(CELL, has_ended=True)]) == NO_COST
    assert estimate_seconds_left([replace(CELL, done=100, passes=1, seconds=1.0)]) == NO_COST


def test_the_rest_of_a_cell_takes_as_long_per_image_as_its_finished_images():
    rest = estimate_seconds_left([replace(CELL, done=20, passes=400, seconds=5.0)])
    assert rest.value == pytest.approx(80 * 5.0 / 20)
    assert 0 < rest.low < rest.value < rest.high
    later = estimate_seconds_left([replace(CELL, done=80, passes=1600, seconds=20.0)])
    assert later.high / later.value < rest.high / rest.value  # more images, a narrower range


def test_no_image_takes_more_than_its_most_passes():
    rest = estimate_seconds_left([replace(CELL, done=10, passes=1000, seconds=10.0)])  # all robust
    assert rest.value == pytest.approx(90.0)
    assert rest.high == pytest.approx(90.0 * 1.12816)  # the speed alone is uncertain upwards
    over = estimate_seconds_left([replace(CELL, done=10, passes=1500, seconds=10.0)])
    assert over.high == pytest.approx(rest.high)


HALF = replace(CELL, has_ended=True, done=100, passes=5000, seconds=100.0)
"""Half of its passes at half the planned speed."""
SLOWDOWN = (100 + PRIOR_SPEED_SECONDS) / (50 + PRIOR_SPEED_SECONDS)
"""What its speed says, beside what the plan says."""


def test_a_waiting_cell_is_estimated_from_the_same_attack_on_other_models():
    tiny = replace(HALF, attack="b", passes=100, seconds=1.0)
    waiting = replace(CELL, model="n", max_seconds=400.0)  # a slower model
    slowdown = (101 + PRIOR_SPEED_SECONDS) / (51 + PRIOR_SPEED_SECONDS)
    rest = estimate_seconds_left([HALF, tiny, waiting])
    assert rest.value == pytest.approx(0.5 * 400.0 * slowdown)
    unlike = estimate_seconds_left([HALF, tiny, replace(waiting, attack="c")])
    assert unlike.value == pytest.approx((0.5 + 0.01) / 2 * 400.0 * slowdown)
    assert unlike.high == pytest.approx(400.0 * slowdown, rel=0.01)


def test_the_speed_of_a_model_is_its_own_where_it_is_measured_and_a_mean_where_nothing_is_known():
    same_model = estimate_seconds_left([HALF, replace(CELL, attack="b")])
    own = (100 + PRIOR_SPEED_SECONDS * SLOWDOWN) / (50 + PRIOR_SPEED_SECONDS)
    assert same_model.value == pytest.approx(0.5 * 100.0 * own)
    unknown = estimate_seconds_left([HALF, replace(CELL, model="n", max_seconds=None)])
    assert unknown.value == pytest.approx(0.5 * 10_000 * 0.02)
    uncorrected = estimate_seconds_left([replace(HALF, max_seconds=None), replace(CELL, model="n")])
    assert uncorrected.value == pytest.approx(0.5 * 100.0)


def test_images_that_took_few_passes_say_little_about_the_speed_of_passes():
    quick = replace(CELL, attack="fgsm", max_passes=400, max_seconds=4.0, has_ended=True, done=100)
    quick = replace(quick, passes=400, seconds=40.0)  # ten times as long, none of it in passes
    rest = estimate_seconds_left([quick, replace(CELL, max_passes=1_000_000, max_seconds=10_000.0)])
    assert rest.high < 10 * 10_000


def test_the_batch_at_work_tells_the_speed_once_it_has_run_for_a_while():
    part = replace(CELL, done=20, passes=400, seconds=4.0)  # 20 passes and 0.2 s an image
    early = estimate_seconds_left([replace(part, batch_passes=10, batch_seconds=MIN_SPEED_SECONDS - 1)])
    assert early.value == pytest.approx(16.0 - 4)
    slow = estimate_seconds_left([replace(part, batch_passes=250, batch_seconds=MIN_SPEED_SECONDS)])
    assert slow.value == pytest.approx((1600 - 250) * MIN_SPEED_SECONDS / 250)
    silent = estimate_seconds_left([replace(part, batch_seconds=7.0)])
    assert silent.value == pytest.approx(16.0 - 7)
    longer = estimate_seconds_left([replace(part, batch_passes=2000, batch_seconds=40.0)])
    assert longer.value == 0
    assert longer.high > 0  # up to all passes


def test_cells_of_a_model_err_together_and_models_independently():
    part = replace(CELL, done=10, passes=300, seconds=3.0)
    one = estimate_seconds_left([part])
    together = estimate_seconds_left([part, replace(part, attack="b")])
    apart = estimate_seconds_left([part, replace(part, model="n")])
    assert together.value == apart.value == pytest.approx(2 * one.value)
    assert together.high > apart.high


@pytest.mark.parametrize(("k", "n"), [(0, 8), (3, 8), (8, 8), (40, 100)])
def test_the_range_of_a_share_is_wilsons(k, n):
    low, high = compute_share_range(k / n, n)
    wilson = compute_wilson(k, n, 0.8)
    assert (low, high) == pytest.approx((wilson.low, wilson.high), abs=1e-4)


def test_a_range_moves_with_time_and_never_below_zero():
    assert CostRange(low=5, value=10, high=20).shift_by(-7) == CostRange(low=0, value=3, high=13)


@pytest.mark.parametrize("robust_share", [0.05, 0.5, 0.9])
def test_the_range_covers_four_in_five_runs(robust_share):
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(400):
        robust = generator.random((4, 200)) < robust_share
        passes = np.where(robust, 100, generator.integers(3, 20, robust.shape))
        speed = 0.01 * np.exp(generator.normal(0, 0.1))
        cells = [
            CellWork(
                model=str(row), attack="a", images=200, max_passes=20_000, done=8,
                passes=int(passes[row, :8].sum()), seconds=0.01 * passes[row, :8].sum(),
            )
            for row in range(4)
        ]  # fmt: skip
        rest = estimate_seconds_left(cells)
        covered += rest.low <= speed * passes[:, 8:].sum() <= rest.high
    assert covered / 400 >= 0.75
