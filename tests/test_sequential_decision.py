"""Decisions from part of the images: what counts, when a run ends, and how often it is wrong."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from benchmarks.decision_replay import OutcomeTable, build_lower_bound_test, draw_table, replay_run
from robustbench_local.confidence_sequences import estimate_ordered_share
from robustbench_local.sequential_decision import (
    SEQUENCE_ERROR,
    CountInterval,
    LimitTest,
    PhaseOutcomes,
    PrecisionTest,
    build_phases,
    choose_extension,
    estimate_count,
    select_chunk,
)

ORDER = ("a", "b", "c", "d", "e", "f")
CHEAP = {"a": True, "b": False, "c": True, "d": True, "f": True}
COSTLY = {"a": True, "d": False}


def make_interval(low, high, population=100):
    return CountInterval(low=low, high=high, value=0.5, seen=50, population=population)


def test_only_a_beginning_of_the_order_counts():
    cheap, costly = build_phases(ORDER, [CHEAP, COSTLY], [10, 100])
    assert (cheap.prefix, cheap.survived, cheap.cost) == (4, (True, False, True, True), 10)
    assert (costly.prefix, costly.survived) == (2, (True,))  # it owes c; d lies behind it
    assert build_phases(ORDER, [CHEAP, COSTLY], proven={"c", "e"})[1] == PhaseOutcomes(
        prefix=5, survived=(True, True, False, True)
    )


def test_an_attack_is_given_what_cheaper_ones_and_proofs_leave():
    assert select_chunk(ORDER, [CHEAP, COSTLY], 1, 6) == ["c", "e", "f"]
    assert select_chunk(ORDER, [CHEAP, COSTLY], 1, 3) == ["c"]
    assert select_chunk(ORDER, [CHEAP, COSTLY], 1, 6, proven={"c"}) == ["e", "f"]
    assert select_chunk(ORDER, [CHEAP, COSTLY], 0, 6) == ["e"]


def test_each_verdict_has_a_limit_on_both_sides():
    test = LimitTest(below=30, above=60)
    assert [test.classify_count(count) for count in (30, 31, 59, 60)] == [
        "below", "between", "between", "above",
    ]  # fmt: skip
    ends = {(10, 30): "below", (10, 31): None, (31, 59): "between", (59, 60): None, (60, 99): "above"}
    assert {pair: test.find_zone(make_interval(*pair)) for pair in ends} == ends
    narrow = PrecisionTest(half_width=0.02)
    assert [narrow.is_met(make_interval(50, high)) for high in (54, 55)] == [True, False]


def test_all_images_leave_one_number_and_none_leave_every_number():
    order = tuple(map(str, range(40)))
    cheap = {image: int(image) % 4 > 0 for image in order}
    costly = {image: int(image) % 8 != 1 for image in order if cheap[image]}
    whole = estimate_count(build_phases(order, [cheap, costly]), 40)
    assert (whole.low, whole.high, whole.value, whole.seen) == (25, 25, 0.625, 40)
    nothing = estimate_count(build_phases(order, [{}, {}]), 40)
    assert (nothing.low, nothing.high, nothing.seen) == (0, 40, 0)
    assert math.isnan(nothing.value)
    proofs = estimate_count(build_phases(order, [{}, {}]), 40, [True] * 30, has_proofs=True)
    assert proofs.low >= 30
    assert proofs.high == 40


def test_a_sequence_errs_once_in_forty_runs():
    """The verdict against a limit errs once in forty too, on one side of its 95% interval: together 5%."""
    marks, order = [number % 2 == 0 for number in range(300)], tuple(map(str, range(4000)))
    whole = estimate_count(build_phases(order, [dict(zip(order, marks, strict=False))]), 4000)
    wider, share, narrower = (estimate_ordered_share(marks, 4000, level) for level in (0.978, 0.975, 0.972))
    assert wider.low < share.low < narrower.low
    assert (whole.low, whole.high) == (round(4000 * share.low), round(4000 * share.high))


@pytest.mark.parametrize("first", [(1, 1, 1, 0, 0), (1, 1, 1, 1, 1), (0, 0, 1, 1, 0)])
def test_over_all_orders_the_interval_misses_no_more_often_than_stated(first):
    """Brute force: a run of two phases that looks after every image of each."""
    second = (1, 0, 1, 0, 1)
    truth = sum(one and other for one, other in zip(first, second, strict=True))
    misses, orders = 0, list(itertools.permutations(range(5)))
    for order in orders:
        sizes = ((seen, min(seen, later)) for seen in range(6) for later in (seen, seen // 2))
        misses += any(
            not is_inside(order[:seen], order[:later], first, second, truth) for seen, later in sizes
        )
    assert misses / len(orders) <= 0.3


def is_inside(seen, later, first, second, truth):
    names = {image: str(image) for image in range(5)}
    order = [names[image] for image in (*seen, *(image for image in range(5) if image not in seen))]
    cheap = {names[image]: bool(first[image]) for image in seen}
    costly = {names[image]: bool(second[image]) for image in later if first[image]}
    interval = estimate_count(build_phases(order, [cheap, costly]), 5, error=0.3)
    return interval.low <= truth <= interval.high


def test_the_cheap_attack_goes_ahead_and_ends_at_the_last_image():
    start = build_phases(ORDER, [{}, {}], [10, 1000])
    assert choose_extension(start, 6, LimitTest(below=2, above=4)) == (0, 6)
    done = build_phases(ORDER, [dict.fromkeys(ORDER, True), {}], [10, 1000])
    assert choose_extension(done, 6, LimitTest(below=2, above=4)) == (1, 6)
    end = build_phases(ORDER, [dict.fromkeys(ORDER, True), dict.fromkeys(ORDER, True)])
    assert choose_extension(end, 6, LimitTest(below=2, above=4)) is None


def test_a_cheap_attack_decides_a_failure_and_a_certificate_a_pass_alone():
    random = np.random.default_rng(0)
    table = draw_table(random, 400, (0.3, 0.95), (40, 8000))
    run = replay_run(table, build_lower_bound_test(0.6, 400))
    assert run.zone == "below"
    assert run.given[0] < 200
    assert not run.given[1]
    proven = draw_table(random, 400, (0.9, 1.0), (40, 8000), proven_share=0.9)
    run = replay_run(proven, build_lower_bound_test(0.6, 400))
    assert (run.zone, run.given) == ("above", (0, 0))


def test_a_pass_costs_a_small_part_of_all_images():
    table = draw_table(np.random.default_rng(1), 1000, (0.5, 0.98), (40, 8000))
    limit = table.robust_count / 1000 - 0.1
    run = replay_run(table, build_lower_bound_test(limit, 1000))
    assert run.zone == "above"
    assert run.passes < 0.25 * table.passes[table.robust[:, 0], 1].sum()


def test_a_run_for_precision_ends_at_it():
    table = draw_table(np.random.default_rng(2), 300, (0.6, 0.95), (40, 400))
    run = replay_run(table, PrecisionTest(half_width=0.08))
    assert run.half_width <= 0.08
    assert sum(run.given) < 600
    everything = replay_run(table, PrecisionTest(half_width=0.0001))
    assert everything.half_width == 0


SETTINGS = [
    (0.5, 0.97, -0.1),
    (0.5, 0.97, 0.1),
    (0.5, 0.97, -0.02),
    (0.9, 0.8, 0.02),
    (0.1, 1.0, -0.05),
    (0.95, 1.0, 0.01),
]
"""Survivors of a cheap and of an expensive attack; distance of the limit from the expected share."""


def count_wrong_decisions(random, survival, shift, images, runs):
    """Count the decisions that the true share belies, and those that all images belie."""
    wrong = belied = 0
    share = math.prod(survival)
    limit = share + shift
    test = build_lower_bound_test(limit, images)
    for _ in range(runs):
        table = draw_table(random, images, survival, (40.0, 4000.0))
        zone = replay_run(table, test).zone
        wrong += zone == ("above" if share < limit else "below")
        belied += zone != test.classify_count(table.robust_count)
    return wrong, belied


@pytest.mark.parametrize(("cheap", "costly", "shift"), SETTINGS[:3:2])
def test_few_simulated_decisions_are_wrong(cheap, costly, shift):
    wrong, belied = count_wrong_decisions(np.random.default_rng(3), (cheap, costly), shift, 100, 20)
    assert wrong <= 2
    assert belied <= 2


@pytest.mark.slow
@pytest.mark.parametrize(("cheap", "costly", "shift"), SETTINGS)
def test_at_most_one_simulated_decision_in_twenty_is_wrong(cheap, costly, shift):
    wrong, belied = count_wrong_decisions(np.random.default_rng(4), (cheap, costly), shift, 300, 400)
    assert wrong <= 20
    assert belied <= 400 * SEQUENCE_ERROR


@pytest.mark.slow
@pytest.mark.parametrize("images", [40, 120])
def test_a_certificate_beside_the_attacks_keeps_the_error(images):
    random, test = np.random.default_rng(5), build_lower_bound_test(0.55, images)
    belied = 0
    for _ in range(400):
        table = draw_table(random, images, (0.75, 0.9), (40, 4000), proven_share=0.6)
        belied += replay_run(table, test).zone != test.classify_count(table.robust_count)
    assert belied <= 400 * SEQUENCE_ERROR


def test_a_table_counts_the_images_that_survive_every_attack():
    robust = np.array([[True, True], [True, False], [False, False]])
    table = OutcomeTable(robust=robust, passes=np.ones((3, 2)), costs=(1.0, 2.0))
    assert table.robust_count == 1
