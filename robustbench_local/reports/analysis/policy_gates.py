"""The judgement of a run by a policy: gates on its threat models and classes, drops, and waivers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from pathlib import Path

from robustbench_local.config.gate_policy import HEADLINE, Policy, is_threat_pattern
from robustbench_local.errors import ConfigError, did_you_mean
from robustbench_local.interval_table import use_interval_table
from robustbench_local.reports.analysis.baseline_run import Baseline
from robustbench_local.reports.analysis.class_gates import judge_classes
from robustbench_local.reports.analysis.doubt_finders import find_doubts
from robustbench_local.reports.analysis.drop_gates import build_undecided_drop, judge_drop
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gate_intervals import read_intervals
from robustbench_local.reports.analysis.gate_report import GateReport
from robustbench_local.reports.analysis.gate_types import Gate, GateVerdict, assign_gate_ids
from robustbench_local.reports.analysis.gate_waivers import JudgedWaiver, Waiver
from robustbench_local.reports.analysis.gates import is_concerned_cell, judge_evidence, judge_gate
from robustbench_local.reports.analysis.read_run import read_evidence
from robustbench_local.reports.analysis.shard_evidence import withhold_verdict
from robustbench_local.reports.analysis.stopped_verdicts import count_stopped_cells
from robustbench_local.reports.formatting.text import join_in_sentence
from robustbench_local.statistics import compute_clopper_pearson
from robustbench_local.store import RunStore


@dataclass(frozen=True, kw_only=True)
class PolicyGate:
    """A gate of a policy, before its threat models are chosen among those of a run."""

    gate: Gate
    """The limit; its threat may be a pattern."""
    per_class: bool = False
    """Whether each class is judged by itself."""


def judge_run_by_policy(
    run_dir: Path, policy: Policy, baseline_dir: Path | None = None, today: date | None = None
) -> GateReport:
    """Judge a run by a policy.

    Args:
        run_dir: The run directory, finished or not.
        policy: The gates and waivers.
        baseline_dir: Run directory of the baseline; None: there is none.
        today: The day for which waivers count; None: today in UTC.

    Raises:
        ConfigError: If there is no run in a directory, or a gate of the run is malformed.
    """
    baseline = None
    if baseline_dir is not None:
        with RunStore.open_readonly(baseline_dir) as store:
            baseline = read_evidence(store)
    with RunStore.open_readonly(run_dir) as store, use_interval_table(read_intervals(store)):
        return judge_by_policy(read_evidence(store), policy, baseline, today)


def judge_by_policy(
    evidence: Evidence, policy: Policy, baseline: Evidence | None = None, today: date | None = None
) -> GateReport:
    """Judge the evidence of a run by a policy; arguments as in ``judge_run_by_policy``."""
    evidence = count_stopped_cells(evidence)
    own_report = judge_evidence(evidence, None if policy.run_gates else ())
    against = None if baseline is None else Baseline.from_runs(baseline, evidence)
    gates = list_policy_gates(evidence, policy)
    judged = [
        withhold_verdict(verdict, evidence)
        for entry in gates
        for verdict in _judge_policy_gate(evidence, entry, policy, against)
    ]
    waivers = [Waiver(**entry.model_dump()) for entry in policy.waivers]
    verdicts, judged_waivers = apply_waivers(judged, waivers, today or datetime.now(UTC).date())
    return GateReport(
        verdicts=tuple(verdicts),
        violations=own_report.violations,
        unread_reason=own_report.unread_reason,
        gate_ids=tuple(entry.gate.id for entry in gates[len(gates) - len(policy.gates) :]),
        policy=policy.name or "policy",
        waivers=tuple(judged_waivers),
        notes=(*_list_run_notes(evidence), *(against.notes if against else [])),
    )


def list_policy_gates(evidence: Evidence, policy: Policy) -> list[PolicyGate]:
    """List the gates of a policy with their ids, those of the run first if the policy wants them."""
    own = [Gate.from_entry(entry) for entry in evidence.gates] if policy.run_gates else []
    entries = [Gate.from_entry(entry.model_dump(exclude={"per_class"})) for entry in policy.gates]
    flags = [False] * len(own) + [entry.per_class for entry in policy.gates]
    named = assign_gate_ids([*own, *entries])
    return [PolicyGate(gate=gate, per_class=flag) for gate, flag in zip(named, flags, strict=True)]


def apply_waivers(
    verdicts: Sequence[GateVerdict], waivers: Sequence[Waiver], today: date
) -> tuple[list[GateVerdict], list[JudgedWaiver]]:
    """Apply waivers to failed gates.

    Only failures are waived: an inconclusive gate was not shown to fail, and stays inconclusive.

    Args:
        verdicts: Verdicts without waivers.
        waivers: The waivers; the first one that counts covers a failure.
        today: The day for which they count.

    Returns:
        The verdicts, those of covered failures with their waiver; and what each waiver did.
    """
    covered = [_cover_failure(verdict, waivers, today) for verdict in verdicts]
    return covered, [_judge_waiver(waiver, covered, today) for waiver in waivers]


def _cover_failure(verdict: GateVerdict, waivers: Sequence[Waiver], today: date) -> GateVerdict:
    if verdict.ruling != "fail":
        return verdict
    counted = (one for one in waivers if not one.has_expired(today) and _is_named(one, verdict))
    return replace(verdict, waiver=next(counted, None))


def _judge_waiver(waiver: Waiver, verdicts: Sequence[GateVerdict], today: date) -> JudgedWaiver:
    named = [verdict for verdict in verdicts if _is_named(waiver, verdict)]
    if not named:
        ids = list(dict.fromkeys(verdict.gate.id for verdict in verdicts))
        remedy = did_you_mean(waiver.id, ids)
        if waiver.id in ids:
            remedy = "no result of this gate is of that model, defense and threat model"
        return JudgedWaiver(waiver=waiver, state="unmatched", remedy=remedy)
    if waiver.has_expired(today):
        return JudgedWaiver(waiver=waiver, state="expired")
    is_needed = any(verdict.ruling == "fail" for verdict in named)
    return JudgedWaiver(waiver=waiver, state="used" if is_needed else "unneeded")


def _is_named(waiver: Waiver, verdict: GateVerdict) -> bool:
    """Return whether a waiver is about a verdict."""
    subject = verdict.subject
    return (
        waiver.id == verdict.gate.id
        and (waiver.model is None or (subject is not None and waiver.model == subject.model))
        and (waiver.defense is None or (subject is not None and waiver.defense == subject.defense))
        and waiver.threat in {None, verdict.gate.threat}
    )


def _judge_policy_gate(
    evidence: Evidence, entry: PolicyGate, policy: Policy, baseline: Baseline | None
) -> list[GateVerdict]:
    gate = entry.gate
    if gate.is_drop and baseline is None:
        if policy.baseline == "optional":
            return [build_undecided_drop(gate, "there is no baseline, and it is optional", ruling="skipped")]
        return [build_undecided_drop(gate, "there is no baseline: name its run with --baseline")]
    if not is_threat_pattern(gate.threat):
        return _judge_concrete_gate(evidence, entry, gate, baseline)
    threats = _select_threats(evidence, gate)
    if not threats:
        names = sorted({cell.record.threat for cell in evidence.cells})
        reason = f"the run has no such result: {gate.threat!r} stands for none of its threat models"
        shown = f" ({join_in_sentence(names[:6])})" if names else ""
        return [build_undecided_drop(gate, f"{reason}{shown}")]
    return [
        verdict
        for threat in threats
        for verdict in _judge_concrete_gate(evidence, entry, replace(gate, threat=threat), baseline)
    ]


def _judge_concrete_gate(
    evidence: Evidence, entry: PolicyGate, gate: Gate, baseline: Baseline | None
) -> list[GateVerdict]:
    """Judge a gate under one threat model; a class that the run does not have makes it inconclusive."""
    try:
        if gate.is_drop and baseline is not None:
            return judge_drop(evidence, baseline, gate, per_class=entry.per_class)
        doubts = find_doubts(evidence)
        return (
            judge_classes(evidence, gate, doubts) if entry.per_class else judge_gate(evidence, gate, doubts)
        )
    except ConfigError as error:
        reason = f"the run has no such result: {error}"
        unknown = compute_clopper_pearson(0, 0)
        return [GateVerdict(gate=gate, subject=None, estimate=unknown, ruling="inconclusive", reason=reason)]


def _select_threats(evidence: Evidence, gate: Gate) -> list[str]:
    """Select the threat models of a run that a pattern stands for, in the order of the grid."""
    if gate.threat == HEADLINE:
        return [evidence.headline_threat.name] if evidence.headline_threat else []
    names = dict.fromkeys(cell.record.threat for cell in evidence.cells)
    return [
        name
        for name in names
        if fnmatchcase(name, gate.threat or "")
        and any(is_concerned_cell(replace(gate, threat=name), cell) for cell in evidence.cells)
    ]


def _list_run_notes(evidence: Evidence) -> list[str]:
    """List the cells that did not finish: no gate on them passes, and other gates say nothing about them."""
    settled = {"done", "skipped", "stopped"}  # a gate on a cell that stopped early says so itself
    unfinished = [cell for cell in evidence.cells if cell.reported_status not in settled]
    if not unfinished:
        return []
    shown = [f"{cell.label} on {cell.subject} ({cell.reported_status})" for cell in unfinished[:6]]
    more = [f"{len(unfinished) - 6:,} more"] if len(unfinished) > 6 else []
    return [f"not finished: {join_in_sentence([*shown, *more])}"]
