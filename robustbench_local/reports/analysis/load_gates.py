"""Gates on load tests: latency and throughput of a served model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import did_you_mean
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gate_types import Gate, GateVerdict, format_load_estimate
from robustbench_local.reports.analysis.gate_verdicts import build_verdict
from robustbench_local.statistics import compute_clopper_pearson

if TYPE_CHECKING:
    from robustbench_local.store.load_test_records import Figure, LoadResult, LoadTestRecord

GENERATOR_SHARE = 0.5
"""Share of the generator's ceiling above which a throughput says as much of the generator as of the
service."""
_MORE = "a longer rbl load-test --duration would decide"


def is_generator_limited(load: LoadResult) -> bool:
    """Return whether the generator, and not the service alone, limits a throughput."""
    rate = load.throughput.value or 0.0
    return load.ceiling is not None and rate > GENERATOR_SHARE * load.ceiling


def judge_load_gate(evidence: Evidence, gate: Gate) -> list[GateVerdict]:
    """Judge the load tests of a run by one gate.

    Args:
        evidence: The run with its load tests.
        gate: A limit on ``p95_ms`` or ``throughput``.

    Returns:
        For each model one verdict, or one for each load. A model without a load test is undecided.
    """
    tests = [one for one in evidence.load_tests if _is_concerned(gate, one.model, one.defense)]
    tested = {(one.model, one.defense) for one in tests}
    verdicts = [verdict for one in tests for verdict in _judge_test(evidence, gate, one)]
    for subject in evidence.subjects:
        if (
            _is_concerned(gate, subject.model, subject.defense)
            and (
                subject.model,
                subject.defense,
            )
            not in tested
        ):
            reason = "it has no load test: run rbl load-test MODEL --out with this run directory"
            verdicts.append(_build_undecided(gate, subject, reason))
    if verdicts:
        return verdicts
    names = {one.model for one in evidence.load_tests} | {one.model for one in evidence.subjects}
    named = f"no model {gate.model!r}, {did_you_mean(gate.model, names)}" if gate.model else "no such model"
    return [_build_undecided(gate, None, f"the run has no load test of it: {named}")]


def _is_concerned(gate: Gate, model: str, defense: str) -> bool:
    return gate.model in {None, model} and gate.defense in {None, defense}


def _judge_test(evidence: Evidence, gate: Gate, test: LoadTestRecord) -> list[GateVerdict]:
    own = EvaluatedModel(model=test.model, defense=test.defense)
    subject = next((one for one in evidence.subjects if one == own), own)
    loads = {load.name: load for load in test.loads}
    if gate.load is not None and gate.load not in loads:
        reason = f"the load test has no load {gate.load!r}: {did_you_mean(gate.load, loads)}"
        return [_build_undecided(gate, subject, reason)]
    if gate.metric == "throughput":
        name = gate.load or test.capacity_load
        load = loads.get(name or "")
        figure = load.throughput if gate.load and load else test.capacity
        if load is None or figure is None:
            return [_build_undecided(gate, subject, "the load test has no closed loop")]
        return [_judge_throughput(gate, subject, load, figure)]
    chosen = [loads[gate.load]] if gate.load else list(test.loads)
    return [_judge_latency(gate, subject, load) for load in chosen]


def _judge_latency(gate: Gate, subject: EvaluatedModel, load: LoadResult) -> GateVerdict:
    """Judge the latency under one load; failed requests count as slower than any limit."""
    estimate = load.p95_ms.to_estimate()
    text = format_load_estimate(estimate)
    if load.failed_requests:
        text += f"; {load.failed_requests:,} of {format_count(load.requests, 'request')} failed"
    return build_verdict(
        replace(gate, load=load.name), subject, estimate, (), text=text, describe_more=lambda: _MORE
    )


def _judge_throughput(gate: Gate, subject: EvaluatedModel, load: LoadResult, figure: Figure) -> GateVerdict:
    """Judge a throughput; what the generator could not send is no failure of the service."""
    estimate = figure.to_estimate()
    verdict = build_verdict(
        replace(gate, load=load.name),
        subject,
        estimate,
        (),
        text=format_load_estimate(estimate),
        describe_more=lambda: _MORE,
    )
    if verdict.ruling != "fail" or not is_generator_limited(load):
        return verdict
    reason = f"{verdict.reason}; the generator sends at most {load.ceiling:,.0f} images/s"
    return replace(verdict, ruling="inconclusive", reason=reason)


def _build_undecided(gate: Gate, subject: EvaluatedModel | None, reason: str) -> GateVerdict:
    unknown = compute_clopper_pearson(0, 0)
    return GateVerdict(gate=gate, subject=subject, estimate=unknown, ruling="inconclusive", reason=reason)
