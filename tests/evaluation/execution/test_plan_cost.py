"""The expected cost of a plan: from which sample, how wide, and how cells add up."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from robustbench_local.certification import make_certificate
from robustbench_local.evaluation.execution.cost_range import (
    NO_COST,
    CostRange,
    add_ranges,
    compute_share_range,
    estimate_mean_share,
)
from robustbench_local.evaluation.execution.earlier_runs import MIN_EARLIER_IMAGES, EarlierCost
from robustbench_local.evaluation.execution.pilot_measurement import (
    MAX_PILOT_IMAGES,
    MIN_PASSES_PER_IMAGE,
    MIN_PILOT_IMAGES,
    PilotMeasurement,
    choose_images,
    measure_pilot,
)
from robustbench_local.evaluation.execution.plan_cost import estimate_cell_cost, sum_cell_costs
from robustbench_local.evaluation.execution.plan_pilot import (
    MIN_PILOT_SECONDS,
    PILOT_SHARE,
    choose_pilot_seconds,
)
from robustbench_local.evaluation.harness.certificate_job import CertificateJob
from robustbench_local.threats.threat_model import ThreatModel


def make_cell(images=100, per_image=100, *, model="m", key="k", is_certificate=False, alpha=0.0):
    record = SimpleNamespace(key=key, alpha=alpha)
    return SimpleNamespace(
        record=record,
        subject=model,
        image_count=images,
        max_passes=(images * per_image, 0),
        is_certificate=is_certificate,
    )


PILOT = PilotMeasurement(images=20, passes=400, seconds=0.8, max_passes_per_image=100)
EARLIER = EarlierCost(run="before", images=50, passes=1500, is_same_cell=False)


def test_a_pilot_tells_the_passes_and_the_seconds_of_a_cell():
    cost = estimate_cell_cost(make_cell(), PILOT, None, workers=2)
    assert cost.passes.value == pytest.approx(2000)
    assert cost.cpu_seconds.value == pytest.approx(4.0)
    low, high = compute_share_range(0.2, 20)
    assert 10_000 * low < cost.passes.low < 2000 < cost.passes.high < 10_000 * high  # a fifth is known
    assert cost.cpu_seconds.low / 4 < cost.passes.low / 2000
    assert (cost.source, cost.workers) == ("pilot of 20 images", 2)


def test_what_each_worker_takes_beside_the_images_is_in_the_time():
    bare, whole = (estimate_cell_cost(make_cell(), PILOT, None, workers=2, start_seconds=s) for s in (0, 3))
    assert whole.passes == bare.passes
    assert whole.cpu_seconds == bare.cpu_seconds.shift_by(6)


def test_unfinished_images_count_in_full_or_as_one_that_was_followed():
    cut = replace(PILOT, unfinished=10, unfinished_passes=300)
    cost = estimate_cell_cost(make_cell(), cut, None)
    assert cost.passes.value == pytest.approx(100 * (100 + 10 * 100) / 20)
    assert cost.source == "pilot of 20 images, 10 cut short"
    assert cost.passes.low < 0.6 * cost.passes.value  # nothing is known of any of them
    followed = replace(cut, followed=2, followed_passes=160, survived=2, survived_passes=160)
    assert estimate_cell_cost(make_cell(), followed, None).passes.value == pytest.approx(4500)
    # followed images that fell soon after: one more is taken to survive, and the range reaches far
    fell = replace(cut, followed=1, followed_passes=20)
    cost = estimate_cell_cost(make_cell(), fell, None)
    assert cost.passes.value == pytest.approx(100 * (100 + 10 * 60) / 20)
    assert cost.passes.high > 4500


def test_where_every_image_is_known_the_passes_are_exact():
    whole = estimate_cell_cost(make_cell(20), PILOT, None).passes
    assert whole == CostRange(low=400, value=400, high=400)
    # seven in seven survive: no other number is possible than the most
    assert estimate_cell_cost(make_cell(7), replace(PILOT, images=7, passes=700), None).passes.high == 700


@pytest.mark.parametrize(
    ("images", "unfinished", "is_same", "wins"),
    [
        (20, 0, False, True),
        (19, 0, False, False),
        (MIN_EARLIER_IMAGES, 4, False, True),
        (MIN_EARLIER_IMAGES - 1, 10, False, False),
        (3, 1, True, True),
        (3, 0, True, False),
    ],
)
def test_the_larger_sample_tells_the_passes(images, unfinished, is_same, wins):
    earlier = replace(EARLIER, images=images, passes=30 * images, is_same_cell=is_same)
    cost = estimate_cell_cost(make_cell(), replace(PILOT, unfinished=unfinished), earlier)
    assert cost.source.startswith("earlier run before" if wins else "pilot")
    if wins:
        assert cost.passes.value == pytest.approx(3000)
        assert cost.cpu_seconds.value == pytest.approx(6.0)  # the speed is that of the pilot


def test_without_a_sample_only_the_upper_bound_is_known():
    for cell in (make_cell(), make_cell(is_certificate=True)):
        cost = estimate_cell_cost(cell, None, None, pass_seconds=0.01)
        assert (cost.passes, cost.cpu_seconds, cost.source) == (None, None, "upper bound only")
    measured = estimate_cell_cost(make_cell(is_certificate=True), PILOT, None).passes
    assert measured.low < 2000 == measured.value < measured.high  # misclassified images take fewer
    assert estimate_cell_cost(make_cell(), replace(PILOT, images=0), None).passes is None
    assert estimate_cell_cost(make_cell(), None, EARLIER).cpu_seconds is None


def test_cells_of_one_model_err_together_and_models_independently():
    cell = CostRange(low=70, value=100, high=140)
    assert add_ranges([("m", cell), ("m", cell)]) == cell.scale_by(2)
    apart = add_ranges([("m", cell), ("n", cell)])
    assert (apart.low, apart.value) == (pytest.approx(200 - 30 * 2**0.5), 200)
    assert add_ranges([]) == NO_COST
    costs = {
        "a": estimate_cell_cost(make_cell(key="a"), PILOT, None, workers=4),
        "b": estimate_cell_cost(make_cell(key="b"), None, None),
    }
    total = sum_cell_costs([make_cell(key="a"), make_cell(key="b")], costs)
    assert (total.passes.value, total.unknown_cells) == (pytest.approx(2000), 1)
    assert total.seconds.value == pytest.approx(total.cpu_seconds.value / 4)
    assert total.to_json()["passes"]["value"] == pytest.approx(2000)
    assert sum_cell_costs([make_cell(key="b")], {"b": costs["b"]}).to_json() is None


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
def test_four_in_five_ranges_cover_the_cost(share):
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        population = rng.random(200) < share  # an image takes all of its passes, or nearly none
        sample = population[rng.choice(200, 32, replace=False)]
        found = estimate_mean_share(float(sample.mean()), 32, 200)
        hits += found.low <= population.mean() <= found.high
    assert hits >= 0.76 * 400


def make_job(images, per_image, views=1, work=None):
    passes = (images * per_image, 0)
    return SimpleNamespace(
        image_count=images, max_passes=passes, work_passes=work or passes, images_per_position=views
    )


def test_a_pilot_has_as_many_images_as_it_can_afford():
    assert len(choose_images(make_job(1000, 10_000), 10 * MIN_PASSES_PER_IMAGE)) == 10
    assert choose_images(make_job(8, 10_000), 4 * MIN_PASSES_PER_IMAGE) == [0, 2, 4, 6]
    assert len(choose_images(make_job(1000, 10_000), 5)) == MIN_PILOT_IMAGES
    assert choose_images(make_job(1000, 10_000), MIN_PILOT_IMAGES - 1) == []
    assert len(choose_images(make_job(1000, 2), 10**9)) == MAX_PILOT_IMAGES
    assert choose_images(make_job(3, 10_000), 10**9) == [0, 1, 2]
    assert choose_images(make_job(8, 10_000), 3 * MIN_PASSES_PER_IMAGE, (1, 3, 5, 6, 7)) == [1, 3, 5, 6]
    assert len(choose_images(make_job(100, 10_000, views=10), 5 * 10 * MIN_PASSES_PER_IMAGE)) == 5


def test_a_pilot_takes_a_small_share_of_the_run_within_its_limit():
    assert choose_pilot_seconds(0, {"a": 1000.0}) == 0
    assert choose_pilot_seconds(30, {"a": 1.0}) == MIN_PILOT_SECONDS
    assert choose_pilot_seconds(30, {"a": 200.0, "b": 200.0}) == pytest.approx(PILOT_SHARE * 400)
    assert choose_pilot_seconds(30, {"a": 10_000.0}) == 30


@pytest.mark.parametrize(("seconds", "fewest"), [(0.0, 1), (60.0, 12)])
def test_the_pilot_of_a_certificate_follows_whole_images(linear, data, seconds, fewest):
    """Votes are taken image by image: the images after a cut would look as if they needed none."""
    certificate = make_certificate("smoothing", {"sigma": 0.25, "n0": 10, "n": 300})
    threat = ThreatModel(norm="L2", eps=0.05)
    job = CertificateJob(
        key="k", classifier=linear, data=data, threat=threat, seed=1, certificate=certificate
    )
    measured = measure_pilot(job, list(range(12)), batch_size=4, max_passes=50, seconds=seconds, timeout=None)
    assert measured.images == fewest
    assert measured.passes == sum(
        row.forward_passes for row in job.run(list(range(12)) if fewest == 12 else [0]).outcomes
    )
    assert (measured.unfinished, measured.max_passes_per_image) == (0, sum(job.max_passes) / len(data))
