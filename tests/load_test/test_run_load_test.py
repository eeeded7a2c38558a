"""Whole load tests on services in virtual time."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("h11", reason="needs the extra web")
from fake_service import MEBIBYTE, PLAN, FakeService, run_fake_test
from virtual_time import run_virtually

from robustbench_local.errors import UnreachableError
from robustbench_local.load_test.soak import judge_memory
from robustbench_local.store.load_test_file import add_load_test, read_load_tests

pytestmark = pytest.mark.extra
SOAK = replace(PLAN, batch_sizes=(1,), concurrencies=(2,), rates=(), soak=120.0)


def run_test(plan=PLAN, **service):
    return run_virtually(run_fake_test(FakeService(**service), plan))


def describe_problems(record):
    return [finding.text for finding in record.findings if finding.level == "problem"]


def test_a_sound_service_has_its_figures_and_no_problem(tmp_path):
    record, lines = run_test(workers=2)
    figures = {load.name: load for load in record.loads}
    *closed, half = figures
    assert closed == ["b1-c1", "b1-c2", "b4-c1", "b4-c2"]
    # two workers of 100 ms: 10 requests a second for each client
    rates = [figures[name].throughput.value for name in ("b1-c1", "b1-c2", "b4-c1", "b4-c2")]
    assert rates == [pytest.approx(rate, rel=0.01) for rate in (10, 20, 40, 80)]
    for name in ("b1-c1", "b4-c2"):
        load = figures[name]
        assert [load.p50_ms.value, load.p95_ms.value, load.p99_ms.value] == [pytest.approx(100.0)] * 3
        assert load.requests == pytest.approx(10 * load.throughput.value / load.batch_size, abs=2)
    assert figures[half].rate == pytest.approx(10, rel=0.02)  # half of the highest rate, without being told
    assert figures[half].p99_ms.value > 100  # some requests arrive together
    assert record.capacity_load == "b4-c2"
    assert record.capacity.level == pytest.approx(1 - 0.05 / 4)
    rows = [(row.images, row.before.value, row.after.value, row.changed, row.n) for row in record.accuracies]
    assert rows == [
        ("clean", 7 / 8, 7 / 8, 0, 8),
        ("fog-3", 7 / 8, 7 / 8, 0, 8),
    ]
    assert record.process.memory_at_end == 100 * MEBIBYTE
    assert record.process.images == sum(load.checked_images for load in record.loads)
    assert describe_problems(record) == []
    assert [finding.text for finding in record.findings] == [
        "no soak: nothing is known about drift and leaks"
    ]
    assert any(line.startswith("b4-c2: 80") for line in lines)
    add_load_test(tmp_path, record)
    assert read_load_tests(tmp_path) == (record,)


def test_failures_are_counted_by_kind_and_are_the_slowest_requests():
    def fail(number):
        return "" if number < 20 or number % 10 else ("429", "connection")[number % 20 // 10]

    record, _ = run_test(fault=fail)
    load = record.loads[1]
    assert set(load.errors) == {"status 429", "connection"}
    assert load.failed_requests == pytest.approx(load.requests / 10, abs=2)
    assert load.p50_ms.value is not None
    assert load.p95_ms.value is None  # more than one in twenty was never answered
    assert any("start it with --rate 0" in text for text in describe_problems(record))


@pytest.mark.parametrize("fault", ["503", "connection refused"])
def test_a_service_that_fails_before_the_loads_is_no_test(fault):
    with pytest.raises(UnreachableError, match=fault):
        run_test(fault=lambda _number: fault)


def test_a_service_that_fails_under_load_alone_is_named():
    with pytest.raises(UnreachableError, match=r"no request was answered under any load \(status 503\)"):
        run_test(fault=lambda number: "503" if number > 4 else "")


def test_one_that_ends_meanwhile_is_wrong_afterwards():
    record, _ = run_test(replace(PLAN, rates=()), fault=lambda number: "connection" if number > 300 else "")
    assert [row.after.value for row in record.accuracies] == [0.0, 0.0]
    assert [row.changed for row in record.accuracies] == [8, 8]


def test_other_answers_under_load_and_after_it_are_found():
    record, _ = run_test(replace(PLAN, rates=()), shift=lambda now: int(now > 30))
    names = [load.name for load in record.loads if load.changed_images]
    assert names == ["b4-c1", "b4-c2"]
    problems = describe_problems(record)
    assert any(text.startswith("clean: 8 of 8 images got another answer, or none") for text in problems)


def test_an_open_loop_beyond_the_capacity_is_called_saturated():
    record, _ = run_test(replace(PLAN, rates=(5.0, 20.0)))
    texts = [finding.text for finding in record.findings]
    assert [text.split(":")[0] for text in texts if "saturated" in text] == ["b1-r20"]
    slow, sound = record.loads[-1], record.loads[-2]
    assert slow.p50_ms.value > 10 * sound.p50_ms.value


def test_a_leak_is_found_by_its_slope():
    record, _ = run_test(SOAK, memory=lambda requests: 100 * MEBIBYTE + 65536 * requests)
    (trend,) = [one for one in record.soak.trends if one.quantity == "memory"]
    assert trend.is_alarm
    assert trend.slope == pytest.approx(65536 * 10 * 60, rel=0.01)  # bytes a request, requests a minute
    assert [text.split(" by ")[0] for text in describe_problems(record)] == ["memory grows"]


def test_a_service_that_slows_down_drifts_and_a_sound_one_does_not():
    record, _ = run_test(SOAK, seconds=lambda now: 0.1 + 0.0005 * now)
    assert {one.quantity for one in record.soak.trends if one.is_alarm} == {"throughput", "latency"}
    sound, _ = run_test(SOAK)
    assert [one.quantity for one in sound.soak.trends] == ["throughput", "latency", "memory"]
    assert not any(one.is_alarm for one in sound.soak.trends)
    assert not sound.findings


@pytest.mark.parametrize(("change", "is_alarm"), [(0.11, True), (0.09, False)])
def test_a_tenth_of_change_over_the_soak_is_the_limit_of_drift(change, is_alarm):
    record, _ = run_test(SOAK, seconds=lambda now: 0.1 * (1 + change * max(0.0, now - 14) / 120))
    drifts = {one.quantity: one.is_alarm for one in record.soak.trends}
    assert drifts["latency"] == is_alarm


@pytest.mark.parametrize(("growth", "is_alarm"), [(1.02, True), (0.98, False)])
def test_a_mebibyte_over_the_second_half_is_the_limit_of_a_leak(growth, is_alarm):
    times = [float(number) for number in range(60)]
    sizes = [1e8 + growth * MEBIBYTE * time / 29 for time in times]
    assert judge_memory(times, sizes).is_alarm == is_alarm


def test_memory_that_settles_is_no_leak_and_forty_samples_are_needed():
    times = [float(number) for number in range(60)]
    warming = [1e8 + 5e7 * (1 - math.exp(-time / 5)) for time in times]
    assert not judge_memory(times, warming).is_alarm
    assert judge_memory(times[:39], warming[:39]) is None
    assert judge_memory(times[:40], warming[:40]) is not None


@pytest.mark.parametrize("kind", ["noise", "sawtooth", "steps"])
def test_sound_memory_raises_few_false_alarms(kind):
    draws, alarms, repeats = np.random.default_rng(0), 0, 200
    times = [float(number) for number in range(60)]
    for _ in range(repeats):
        noise = draws.normal(0, 2 * MEBIBYTE, 60)
        if kind == "sawtooth":  # a collector that frees now and then
            noise += 20 * MEBIBYTE * ((np.arange(60) + draws.integers(12)) % 12) / 12
        elif kind == "steps":  # an allocator that keeps what it once needed
            noise = 30 * MEBIBYTE * (np.arange(60) > draws.integers(60)) + noise / 100
        alarms += judge_memory(times, (5e8 + noise).tolist()).is_alarm
    assert alarms <= 6  # 99.9% of 200 draws of 1% and fewer
