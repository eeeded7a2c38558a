"""The summary of a run for lists of runs: the report's verdict and rates, computed from its evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from robustbench_local.interval_table import use_interval_table
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gate_report import GateReport
from robustbench_local.reports.analysis.gates import judge_evidence, store_intervals
from robustbench_local.reports.analysis.read_run import read_evidence
from robustbench_local.reports.analysis.run_warnings import list_findings
from robustbench_local.reports.analysis.stop_targets import list_stopped_estimates
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.reports.analysis.trust import format_mark, select_cell_distrust, select_distrust
from robustbench_local.reports.formatting.text import redact_private_data
from robustbench_local.reports.summary.run_verdict import build_run_verdict
from robustbench_local.statistics import Estimate
from robustbench_local.store import RunStore
from robustbench_local.store.run_summary import (
    Quantity,
    RunSummary,
    SummaryRow,
    encode_summary,
)


def store_summary(store: RunStore) -> None:
    """Store the summary of an open run, and the intervals that its gates need.

    Args:
        store: The run, open for writing.

    Raises:
        ConfigError: If a gate is malformed.
    """
    evidence = read_evidence(store)
    report = store_intervals(store, evidence)
    summary = build_summary(evidence, report)
    store.update_meta(encode_summary(summary, store.compute_fingerprint()))


def read_summary(store: RunStore) -> RunSummary:
    """Compute the summary of an open run from its outcomes.

    Raises:
        ConfigError: If a gate is malformed.
    """
    evidence = read_evidence(store)
    with use_interval_table({}):
        return build_summary(evidence, judge_evidence(evidence))


def build_summary(evidence: Evidence, report: GateReport) -> RunSummary:
    """Build the summary of a run from its evidence and the verdicts of its gates."""
    verdict = build_run_verdict(evidence, report)
    return RunSummary(
        verdict=verdict.ruling,
        sentence=verdict.sentence,
        advice=verdict.advice,
        gate_counts={str(status): number for status, number in report.counts.items()},
        rows=tuple(_list_rows(evidence)),
        finding_counts=dict(Counter(finding.level for finding in list_findings(evidence))),
    )


def _list_rows(evidence: Evidence) -> Iterator[SummaryRow]:
    """List worst cases, those of the headline threat first, then certificates and attacks on classes."""
    stopped = {(one.subject, one.threat): one.stated for one in list_stopped_estimates(evidence)}
    ranked = sorted(evidence.worst_cases, key=lambda worst: worst.threat != evidence.headline_threat)
    for worst in ranked:
        yield _build_row(
            evidence,
            worst.subject,
            worst.threat,
            attacks=worst.attacks,
            quantity="robust accuracy",
            clean=worst.clean_accuracy,
            rate=stopped.get((worst.subject, worst.threat), worst.robust_accuracy),
            is_complete=worst.is_complete,
            mark=format_mark(select_distrust(evidence, worst.subject, worst.threat)),
        )
    for cell in evidence.cells:
        rate = _find_rate(cell)
        if rate is not None:
            yield _build_row(
                evidence,
                cell.subject,
                cell.threat,
                attacks=(cell.record.attack,),
                quantity=rate[0],
                clean=cell.clean_accuracy,
                rate=rate[1],
                is_complete=cell.is_done,
                mark=format_mark(select_cell_distrust(evidence, cell)),
            )


def _find_rate(cell: CellResult) -> tuple[Quantity, Estimate] | None:
    """Find what a cell outside the worst cases measures; None for transfers and corruptions."""
    if cell.is_certificate:
        return "certified accuracy", cell.certified_accuracy
    if cell.is_sticker:
        return "attack success", cell.sticker_success_over_signs
    if cell.targeted and not cell.has_external_candidates:
        return "attack success", cell.attack_success
    return None


def _build_row(
    evidence: Evidence,
    subject: EvaluatedModel,
    threat: Threat,
    *,
    attacks: tuple[str, ...],
    quantity: Quantity,
    clean: Estimate,
    rate: Estimate,
    is_complete: bool,
    mark: str,
) -> SummaryRow:
    digests = (
        str(about.get("digest") or "")
        for about in evidence.models
        if (about.get("id"), about.get("defense") or "none") == (subject.model, subject.defense)
    )
    return SummaryRow(
        model=subject.model,
        defense=subject.defense,
        label=str(subject),
        digest=next(digests, ""),
        threat=threat.name,
        threat_text=redact_private_data(str(threat)),
        attacks=attacks,
        quantity=quantity,
        clean=clean,
        rate=rate,
        is_complete=is_complete,
        mark=mark,
    )
