"""Gates: limits on the results of a run, decided with confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from robustbench_local.config.class_lookup import resolve_classes
from robustbench_local.config.gate_choices import LOAD_METRICS
from robustbench_local.errors import did_you_mean
from robustbench_local.interval_table import IntervalTable, use_interval_table
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.certified_vs_empirical import find_violations
from robustbench_local.reports.analysis.distances import measures_distance
from robustbench_local.reports.analysis.doubt_finders import Doubt, find_doubts
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gate_caveats import (
    apply_distrust,
    apply_twin_disagreement,
    note_gradient_attacks,
    note_unchecked,
)
from robustbench_local.reports.analysis.gate_intervals import encode_intervals, read_intervals
from robustbench_local.reports.analysis.gate_report import GateReport
from robustbench_local.reports.analysis.gate_types import Gate, GateVerdict, assign_gate_ids
from robustbench_local.reports.analysis.gate_verdicts import group_cells, judge_subject
from robustbench_local.reports.analysis.load_gates import judge_load_gate
from robustbench_local.reports.analysis.read_run import read_evidence
from robustbench_local.reports.analysis.resubmission import has_random_answers
from robustbench_local.reports.analysis.shard_evidence import withhold_verdict
from robustbench_local.reports.analysis.stop_targets import build_gate_target
from robustbench_local.reports.analysis.stopped_verdicts import count_stopped_cells
from robustbench_local.reports.analysis.trust import (
    is_gradient_dependent,
    lacks_gradient_check,
    select_gate_distrust,
)
from robustbench_local.reports.formatting.text import join_in_sentence
from robustbench_local.statistics import compute_clopper_pearson
from robustbench_local.stop_target import StopTarget
from robustbench_local.store import RunStore

__all__ = [
    "Gate",
    "GateReport",
    "GateVerdict",
    "judge_evidence",
    "judge_run_dir",
    "judge_store",
    "list_gate_targets",
    "store_intervals",
]

_UNREAD_REASON = (
    "the run stopped before it stored its gates, so none was evaluated; run the same command again"
)


def judge_run_dir(run_dir: Path, gates: Sequence[Mapping[str, Any]] | None = None) -> GateReport:
    """Judge a run by its gates.

    Args:
        run_dir: The run directory, finished or not.
        gates: Entries as in a grid file; None: the run's own.

    Raises:
        ConfigError: If there is no run here, or a gate is malformed.
    """
    with RunStore.open_readonly(run_dir) as store:
        return judge_store(store, gates)


def judge_store(store: RunStore, gates: Sequence[Mapping[str, Any]] | None = None) -> GateReport:
    """Judge an open run by its gates, or by these; errors as in ``judge_run_dir``."""
    with use_interval_table(read_intervals(store)):
        return judge_evidence(read_evidence(store), gates)


def store_intervals(store: RunStore, evidence: Evidence | None = None) -> GateReport:
    """Store the intervals that the gates of an open run need, for ``judge_store``, and return the verdicts.

    Args:
        store: The run, open for writing.
        evidence: Its evidence; None: it is read.

    Raises:
        ConfigError: If a gate is malformed.
    """
    table: IntervalTable = {}
    with use_interval_table(table):
        report = judge_evidence(read_evidence(store) if evidence is None else evidence)
    store.update_meta(encode_intervals(table))
    return report


def judge_evidence(evidence: Evidence, gates: Sequence[Mapping[str, Any]] | None = None) -> GateReport:
    """Judge the evidence of a run by its gates, or by these; errors as in ``judge_run_dir``."""
    entries = evidence.gates if gates is None else gates
    read = assign_gate_ids([Gate.from_entry(entry) for entry in entries])
    if gates is None and not evidence.has_begun:
        return GateReport(verdicts=(), unread_reason=_UNREAD_REASON)
    evidence = count_stopped_cells(evidence)
    doubts = find_doubts(evidence)
    return GateReport(
        verdicts=tuple(
            withhold_verdict(verdict, evidence)
            for gate in read
            for verdict in judge_gate(evidence, gate, doubts)
        ),
        gate_ids=tuple(gate.id for gate in read),
        violations=tuple(
            violation.sentence for violation in find_violations(evidence) if violation.is_blocking
        ),
    )


def list_gate_targets(evidence: Evidence) -> list[StopTarget]:
    """List the questions that the gates of a run ask, for a run that stops once they are answered.

    Args:
        evidence: The run, with its stop record.

    Raises:
        ConfigError: If a gate is malformed.
    """
    targets = []
    for gate in map(Gate.from_entry, evidence.gates):
        cells = [cell for cell in evidence.cells if is_concerned_cell(gate, cell)]
        for subject in dict.fromkeys(cell.subject for cell in cells):
            own = [cell for cell in cells if cell.subject == subject]
            for group, _ in group_cells(gate, own, evidence):
                attack = group[0].label if gate.attack else ""
                name = f"{subject}: {gate.describe_limit(attack)}"
                targets.append(build_gate_target(gate, group, evidence, name=name))
    return targets


def judge_gate(evidence: Evidence, gate: Gate, doubts: Sequence[Doubt]) -> list[GateVerdict]:
    """Judge the models of a run by one gate.

    Args:
        evidence: The run.
        gate: The limit.
        doubts: Doubts of the run.

    Returns:
        The verdicts, at least one: inconclusive if the gate concerns nothing in the run.

    Raises:
        ConfigError: If the gate names a class that a model does not have.
    """
    if gate.metric in LOAD_METRICS:
        return judge_load_gate(evidence, gate)
    cells = [cell for cell in evidence.cells if is_concerned_cell(gate, cell)]
    if not cells:
        reason = ": ".join(filter(None, ["the run has no such result", _suggest_name(evidence, gate)]))
        return [
            GateVerdict(
                gate=gate,
                subject=None,
                estimate=compute_clopper_pearson(0, 0),
                ruling="inconclusive",
                reason=reason,
            )
        ]
    subjects = dict.fromkeys(cell.subject for cell in cells)
    own = {
        subject: select_gate_images(gate, evidence, [cell for cell in cells if cell.subject == subject])
        for subject in subjects
    }
    return [
        _add_caveats(verdict, evidence, subject, gate, own[subject])
        for subject in subjects
        for verdict in judge_subject(gate, subject, own[subject], doubts, evidence)
    ]


def _add_caveats(
    verdict: GateVerdict, evidence: Evidence, subject: EvaluatedModel, gate: Gate, cells: Sequence[CellResult]
) -> GateVerdict:
    """Add what the verdict on a model rests on."""
    verdict = _require_draws(verdict, evidence, cells)
    verdict = apply_distrust(verdict, select_gate_distrust(evidence, subject, gate, cells))
    unchecked = rests_on_unchecked_gradients(evidence, subject, cells)
    verdict = note_gradient_attacks(note_unchecked(verdict, is_unchecked=unchecked), cells)
    twin = next((about.get("twin") for about in evidence.models if about["id"] == subject.model), None)
    return apply_twin_disagreement(verdict, cells, twin)


def _suggest_name(evidence: Evidence, gate: Gate) -> str:
    """Suggest a name in place of the first one that the run does not have; empty if it has all of them."""
    records = [cell.record for cell in evidence.cells]
    known = (
        ("threat model", gate.threat, {record.threat for record in records}),
        ("model", gate.model, {record.model for record in records}),
        ("attack", gate.attack, {name for record in records for name in (record.attack, record.card)}),
    )
    for kind, name, names in known:
        if name is not None and name not in names:
            return f"no {kind} {name!r}, {did_you_mean(name, names)}"
    return ""


def select_gate_images(gate: Gate, evidence: Evidence, cells: Sequence[CellResult]) -> list[CellResult]:
    """Return a subject's cells on the images of the gate's class; on all images if it names none."""
    if gate.true_class is None:
        return list(cells)
    (label,) = resolve_classes([gate.true_class], evidence.get_class_names(cells[0].record.model))
    return [cell.select_class(label) for cell in cells]


def _require_draws(verdict: GateVerdict, evidence: Evidence, cells: Sequence[CellResult]) -> GateVerdict:
    """Return a verdict on repeated submissions that does not pass where random answers were not drawn."""
    if verdict.gate.metric != "resubmission_success" or verdict.ruling != "pass" or verdict.subject is None:
        return verdict
    undrawn = [cell.label for cell in cells if not cell.draw_counts]
    if not undrawn or not has_random_answers(evidence, verdict.subject):
        return verdict
    reason = f"the answers are random, and {join_in_sentence(undrawn)} did not count how often they succeed"
    return replace(verdict, ruling="inconclusive", reason=f"{verdict.reason}, but {reason}")


def rests_on_unchecked_gradients(
    evidence: Evidence, subject: EvaluatedModel, cells: Sequence[CellResult]
) -> bool:
    """Return whether cells depend on gradients that no diagnostic has looked at."""
    depend = any(is_gradient_dependent(cell) and cell.record.knowledge == "white-box" for cell in cells)
    return depend and lacks_gradient_check(evidence, subject)


def is_concerned_cell(gate: Gate, cell: CellResult) -> bool:
    """Return whether a gate concerns a cell.

    Targeted goals and transfers are only judged when their attack is named, and attacks that know nothing of
    the defense only when they are named in full. Stickers have their own metric.
    """
    record = cell.record
    return (
        gate.metric not in LOAD_METRICS
        and not cell.is_self_transfer
        and cell.is_certificate == (gate.metric == "certified_accuracy")
        and cell.is_sticker == (gate.metric == "sticker_success")
        and gate.model in {None, record.model}
        and gate.defense in {None, record.defense}
        and gate.threat in {None, record.threat}
        and (_is_named(gate.attack, cell) if gate.attack else _counts_unnamed(cell))
        and (gate.metric != "median_distance" or measures_distance(cell))
    )


def _counts_unnamed(cell: CellResult) -> bool:
    return cell.is_sticker or not (cell.targeted or cell.has_external_candidates)


def _is_named(attack: str, cell: CellResult) -> bool:
    return attack == cell.record.attack or (attack == cell.record.card and not cell.is_naive)
