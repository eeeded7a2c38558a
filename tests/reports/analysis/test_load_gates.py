"""Gates on load tests: both sides of every limit, and what is undecided."""

from __future__ import annotations

from dataclasses import replace

import pytest
from gate_runs import GateCell, GateRun, make_run
from load_records import make_figure, make_load, make_load_test

from robustbench_local.config.gate_policy import Policy
from robustbench_local.config.strict_yaml import validate
from robustbench_local.errors import ConfigError
from robustbench_local.reports.analysis.gate_report import GateReport
from robustbench_local.reports.analysis.gate_types import Gate
from robustbench_local.reports.analysis.gates import judge_evidence, list_gate_targets
from robustbench_local.reports.analysis.load_gates import is_generator_limited
from robustbench_local.reports.analysis.policy_gates import judge_by_policy

TESTS = (make_load_test(),)


def judge(*gates, tests=TESTS, run=None) -> GateReport:
    return judge_evidence(replace((run or make_run("rrrb")).build_evidence(), load_tests=tests), gates)


def list_rulings(*gates, **settings):
    return [(one.gate.load, one.ruling) for one in judge(*gates, **settings).verdicts]


@pytest.mark.parametrize(
    ("limit", "ruling"),
    [(55, "pass"), (54.9, "inconclusive"), (45, "inconclusive"), (44.9, "fail")],
)
def test_latency_is_judged_by_the_ends_of_its_interval(limit, ruling):
    assert list_rulings({"metric": "p95_ms", "max": limit, "load": "b1-c1"}) == [("b1-c1", ruling)]


@pytest.mark.parametrize(
    ("limit", "ruling"),
    [(37, "pass"), (37.1, "inconclusive"), (43, "inconclusive"), (43.1, "fail")],
)
def test_throughput_is_that_of_the_best_closed_loop_corrected_for_its_choice(limit, ruling):
    assert list_rulings({"metric": "throughput", "min": limit}) == [("b1-c1", ruling)]


def test_a_named_load_is_judged_alone_and_each_load_without_a_name():
    assert list_rulings({"metric": "throughput", "min": 38, "load": "b1-r50"}) == [("b1-r50", "pass")]
    assert list_rulings({"metric": "p95_ms", "max": 60}) == [("b1-c1", "pass"), ("b1-r50", "pass")]


def test_lines_give_value_interval_limit_and_unit():
    report = judge({"metric": "p95_ms", "max": 50, "load": "b1-c1"}, {"metric": "throughput", "min": 30})
    assert report.summary_lines == [
        "INCONCLUSIVE  m  p95_ms[b1-c1] = 50 [45, 55] ms n=400, required <= 50 ms (upper bound)",
        "    straddles the limit; a longer rbl load-test --duration would decide",
        "PASS  m  throughput[b1-c1] = 40 [37, 43] images/s n=20, required >= 30 images/s (lower bound)",
        "1 passed, 1 inconclusive",
    ]
    assert report.exit_code == 4
    assert (
        report.verdicts[0].limit_text
        == "p95 latency (b1-c1) \N{LESS-THAN OR EQUAL TO} 50 ms on the upper bound"
    )


def test_failed_requests_are_slower_than_any_limit():
    failed = make_load(p95_ms=make_figure(None, None, None), errors={"timeout": 40, "status 503": 10})
    (verdict,) = judge({"metric": "p95_ms", "max": 1e9}, tests=(make_load_test(loads=(failed,)),)).verdicts
    assert verdict.ruling == "fail"
    assert "50 of 400 requests failed" in verdict.explanation
    few = make_load(p95_ms=make_figure(50.0, 45.0, None))
    assert list_rulings({"metric": "p95_ms", "max": 60}, tests=(make_load_test(loads=(few,)),)) == [
        ("b1-c1", "inconclusive")
    ]


@pytest.mark.parametrize(("ceiling", "ruling"), [(79.9, "inconclusive"), (80.1, "fail"), (None, "fail")])
def test_the_generators_limit_is_no_failure_of_the_service(ceiling, ruling):
    load = make_load(ceiling=ceiling)
    assert is_generator_limited(load) == (ruling == "inconclusive")
    assert list_rulings({"metric": "throughput", "min": 90}, tests=(make_load_test(loads=(load,)),)) == [
        ("b1-c1", ruling)
    ]


def test_a_model_without_a_load_test_is_undecided():
    run = GateRun(cells=(GateCell(images="rr", model="m"), GateCell(images="rr", model="other")))
    gate = {"metric": "throughput", "min": 10}
    report = judge(gate, run=run)
    assert [one.ruling for one in report.verdicts] == ["pass", "inconclusive"]
    assert "has no load test: run rbl load-test" in report.verdicts[1].reason
    assert list_rulings({**gate, "model": "m"}, run=run) == [("b1-c1", "pass")]
    assert judge(gate, tests=()).exit_code == 4
    for named, hint in (
        ({"load": "b1-c2"}, "did you mean b1-c1"),
        ({"model": "n"}, "no model 'n', use one of m"),
    ):
        (verdict,) = judge({**gate, **named}).verdicts
        assert verdict.ruling == "inconclusive"
        assert hint in verdict.reason
    open_alone = make_load_test(loads=(make_load("b1-r50"),), capacity=None, capacity_load=None)
    assert list_rulings(gate, tests=(open_alone,)) == [(None, "inconclusive")]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"metric": "p95_ms", "min": 5}, "p95_ms is limited by max"),
        ({"metric": "throughput", "max": 5}, "throughput is limited by min"),
        ({"metric": "throughput", "min": 5, "threat": "linf-8"}, "takes no threat"),
        ({"metric": "p95_ms", "max": 5, "true_class": 1}, "takes no true_class"),
        ({"metric": "clean_accuracy", "min": 0.5, "load": "b1-c1"}, "load goes with p95_ms or throughput"),
        ({"metric": "p95_ms", "max": "5%"}, "not a percentage"),
        ({"metric": "p95_ms", "max_drop": 0.1}, "p95_ms is limited by max"),
        ({"metric": "p95_ms", "max": 5, "per_class": True}, "per_class goes with"),
    ],
)
def test_keys_that_do_not_fit_are_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        validate(Policy, {"gates": [keys]}, where="p.yaml", error=ConfigError)
    own = {
        key: value for key, value in keys.items() if key not in {"per_class", "max_drop"} and value != "5%"
    }
    if own == keys:
        with pytest.raises(ConfigError, match=message):
            Gate.from_entry(keys)


def test_policies_judge_them_and_runs_stop_for_other_gates():
    gates = [{"metric": "p95_ms", "max": 0.5}, {"id": "fast", "metric": "throughput", "min": 20}]
    policy = validate(Policy, {"gates": gates}, where="p.yaml", error=ConfigError)
    evidence = replace(make_run("rrrb").build_evidence(), load_tests=(make_load_test(),))
    report = judge_by_policy(evidence, policy)
    assert [(one.gate.id, one.status) for one in report.verdicts] == [
        ("p95_ms", "fail"), ("p95_ms", "fail"), ("fast", "pass"),
    ]  # fmt: skip
    assert list_gate_targets(replace(evidence, gates=[{"metric": "p95_ms", "max": 5}])) == []
