"""results.json: all results for programs. An unknown value is null, with a reason."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.certified_accuracy import CertifiedCell
from robustbench_local.reports.analysis.distances import compute_attack_distances, measures_distance
from robustbench_local.reports.analysis.doubt_finders import Doubt, find_doubts
from robustbench_local.reports.analysis.eight_bit_worst_case import EightBitCase, find_eight_bit_cases
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gates import GateReport, GateVerdict, judge_evidence
from robustbench_local.reports.analysis.misclassification_severity import (
    compute_image_severity,
    find_severity_table,
)
from robustbench_local.reports.analysis.read_run import read_evidence
from robustbench_local.reports.analysis.run_warnings import list_findings
from robustbench_local.reports.analysis.strongest_pair import find_strongest_pair
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.reports.analysis.trust import format_mark, select_cell_distrust, select_distrust
from robustbench_local.reports.analysis.worst_case import WorstCase
from robustbench_local.reports.formatting.text import redact_private_data
from robustbench_local.reports.sections import SECTIONS
from robustbench_local.reports.sections.parts import encode_severity
from robustbench_local.reports.sections.section import JsonDict, Section
from robustbench_local.reports.summary.run_verdict import build_run_verdict
from robustbench_local.statistics import Estimate
from robustbench_local.store import RunStore
from robustbench_local.store.diagnostic_records import DiagnosticResult

SCHEMA_VERSION = 1
"""Version of the schema of results.json; keys may be added within a version."""

_INTERVAL_KEYS = ("value", "low", "high")


def load_results(store: RunStore) -> JsonDict:
    """Return the content of results.json for an open run, as plain data without NaN."""
    evidence = read_evidence(store)
    return encode_results(evidence, judge_evidence(evidence), SECTIONS)


def encode_results(
    evidence: Evidence, gates: GateReport, sections: Sequence[Section[Any]] = SECTIONS
) -> JsonDict:
    """Encode the content of results.json.

    Args:
        evidence: Results of the run.
        gates: Verdicts of its gates.
        sections: The sections of the report that have entries of their own.

    Returns:
        ``schema``, ``question``, ``verdict``, ``cells``, ``worst_case``, ``comparisons``,
        ``strongest_pair``, ``gates``, ``findings``, ``doubts``, ``diagnostics``, ``checklist``,
        ``transfers``, ``adaptive_steps``, ``naive_vs_adaptive``, ``accuracy_bounds``, ``corruptions``,
        ``goals``, ``stickers``, ``shard``, ``environment``, ``data``, ``models``, ``severity``, ``seed``
        and ``grid``, as documented. Shares lie in [0, 1]; one that is not known is ``{"value": null, ...,
        "reason": "..."}``.
    """
    return {
        "schema": SCHEMA_VERSION,
        "question": evidence.question,
        "verdict": build_run_verdict(evidence, gates).to_json(),
        "cells": [_encode_cell(cell, evidence) for cell in evidence.cells],
        "worst_case": [
            _encode_worst_case(worst, _index_eight_bit_cases(evidence), evidence)
            for worst in evidence.worst_cases
        ],
        "comparisons": _encode_comparisons(evidence),
        "strongest_pair": _encode_strongest_pair(evidence),
        "gates": {
            "exit_code": gates.exit_code,
            "verdicts": [_encode_gate_verdict(verdict) for verdict in gates.verdicts],
            "violations": list(gates.violations),
        },
        "findings": [asdict(finding) for finding in list_findings(evidence)],
        "doubts": [_encode_doubt(doubt) for doubt in find_doubts(evidence)],
        **{key: value for section in sections for key, value in section.to_json(evidence).items()},
        "shard": _encode_shard(evidence),
        "environment": dict(evidence.environment),
        "data": dict(evidence.data),
        "models": [dict(about) for about in evidence.models],
        "severity": dict(evidence.severity_costs) or None,
        "seed": evidence.seed,
        "grid": dict(evidence.grid),
    }


def format_json(content: JsonDict) -> str:
    """Format the content as JSON text that ends with one newline.

    Raises:
        ValueError: If the content holds NaN or infinity, which JSON cannot express (F78).
    """
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _encode_cell(cell: CellResult, evidence: Evidence) -> JsonDict:
    record, counts = cell.record, cell.tally
    return {
        "model": record.model,
        "defense": record.defense,
        "attack": record.attack,
        "label": cell.label,
        "model_label": str(cell.subject),
        "norm": record.norm,
        "eps": record.eps,
        "goal": record.goal,
        "status": record.status,
        "n": counts.n,
        "clean_accuracy": _encode_share(cell, cell.clean_accuracy),
        "robust_accuracy": _encode_share(cell, cell.robust_accuracy),
        "attack_success": _encode_share(cell, cell.attack_success),
        "forward_passes": counts.forward_passes,
        "backward_passes": counts.backward_passes,
        "seconds": counts.seconds,
        "reported_status": cell.reported_status,
        "error": cell.problem,
        "threat": record.threat,
        "card": record.card,
        "targets": [evidence.get_class_name(record.model, target) for target in record.targets],
        "sources": [evidence.get_class_name(record.model, source) for source in record.sources],
        "images": record.images,
        "excluded": record.excluded,
        "attack_success_8bit": _encode_share(cell, cell.attack_success_8bit),
        **_encode_trust(select_cell_distrust(evidence, cell)),
        "counts": {
            "clean_correct": counts.clean_correct,
            "broken": counts.broken,
            "robust": counts.robust,
            "broken_8bit": counts.broken_8bit,
            "moved_elsewhere": counts.moved_elsewhere,
            "fragile": counts.fragile,
            "rejected": counts.rejected,
            "non_finite": counts.non_finite,
            "errors": counts.errors,
            "nonfinite_gradients": counts.nonfinite_gradients,
            "missing_gradients": counts.missing_gradients,
            "proven": 0 if cell.is_certificate else counts.certified,
        },
        "parameters": record.parameters,
        "note": record.note,
        "key": record.key,
        "identity": redact_private_data(record.identity),
        "knowledge": record.knowledge,
        "surrogate": record.surrogate,
        "twin": record.twin,
        "measure": record.measure,
        "queries": cell.query_stats._asdict(),
        **({"severity": _compute_cell_severity(cell, evidence)} if cell.targeted else {}),
        **({"distance": _encode_distances(cell)} if measures_distance(cell) and cell.is_done else {}),
        **(_encode_certificate(cell) if cell.is_certificate else {}),
    }


def _encode_trust(distrust: Sequence[DiagnosticResult]) -> JsonDict:
    """Encode whether diagnostics find numbers void or not trustworthy, and the words for it."""
    return {
        "trustworthy": not distrust,
        "distrust": list(dict.fromkeys(result.id for result in distrust)),
        "mark": format_mark(distrust),
    }


def _encode_certificate(cell: CellResult) -> JsonDict:
    """Encode certified accuracy, its curve over the radius, the certified classifier and the guarantee."""
    points = ((radius, share.to_json()) for radius, share in CertifiedCell(cell=cell).points)
    return {
        "certified_accuracy": _encode_share(cell, cell.certified_accuracy),
        "certified": cell.tally.certified,
        "abstained": cell.tally.abstained,
        "concerns": cell.record.concerns,
        "alpha": cell.record.alpha,
        "curve": [
            {"radius": radius, **{key: share[key] for key in _INTERVAL_KEYS}} for radius, share in points
        ],
    }


def _encode_distances(cell: CellResult) -> JsonDict:
    """Encode the distances to adversarial images; null means farther than eps."""
    distances = compute_attack_distances(cell)
    quartiles = distances.quartiles
    ends = (quartiles.median, quartiles.low, quartiles.high, quartiles.lower, quartiles.upper)
    median, low, high, lower, upper = (end if math.isfinite(end) else None for end in ends)
    points = ((step, share.to_json()) for step, share in distances.points)
    return {
        "norm": cell.record.norm,
        "n": quartiles.n,
        "median": median,
        "median_interval": [low, high],
        "quartiles": [lower, median, upper],
        "n_unbroken": distances.unbroken_count,
        "curve": [{"radius": step, **{key: share[key] for key in _INTERVAL_KEYS}} for step, share in points],
    }


def _encode_doubt(doubt: Doubt) -> JsonDict:
    return {
        "model": doubt.subject.model,
        "defense": doubt.subject.defense,
        "threat": doubt.threat.name,
        "n": len(doubt.images),
        "images": sorted(doubt.images),
        "concerns_clean_answers": doubt.concerns_clean_answers,
        "reason": doubt.reason,
        "hint": doubt.hint,
    }


def _compute_cell_severity(cell: CellResult, evidence: Evidence) -> JsonDict | None:
    """Compute the severity of the predictions of a targeted cell; None without a severity table."""
    table = find_severity_table(evidence, cell.record.model, cell.record.sources)
    return (
        encode_severity(compute_image_severity(table, cell.final_predictions, cell.groups))
        if table and cell.final_predictions
        else None
    )


def _encode_share(cell: CellResult, estimate: Estimate) -> JsonDict:
    missing_text = "a certificate, no attack" if cell.is_certificate else "no image to count"
    reason = missing_text if cell.is_done else f"{cell.reported_status}: {cell.problem or 'no result'}"
    return estimate.to_json(reason=reason)


def _index_eight_bit_cases(evidence: Evidence) -> dict[tuple[EvaluatedModel, Threat], EightBitCase]:
    return {(case.subject, case.threat): case for case in find_eight_bit_cases(evidence)}


def _encode_worst_case(
    worst: WorstCase, cases: Mapping[tuple[EvaluatedModel, Threat], EightBitCase], evidence: Evidence
) -> JsonDict:
    reason = "no attack under this threat is done" if not worst.attacks else "no image to count"
    case = cases.get((worst.subject, worst.threat))
    return {
        "model": worst.subject.model,
        "defense": worst.subject.defense,
        "threat": worst.threat.name,
        "norm": worst.threat.norm,
        "eps": worst.threat.eps,
        "attacks": list(worst.attacks),
        "missing": list(worst.missing_attacks),
        "complete": worst.is_complete,
        "n": worst.robust_accuracy.n,
        "n_met_by_all": len(worst.verdicts),
        "n_met_by_any": len(worst.any_attack_verdicts),
        "unbroken_count": sum(verdict.robust for verdict in worst.any_attack_verdicts.values()),
        "phases": [
            {"attacks": list(phase.attacks), **counts._asdict()}
            for phase, counts in zip(worst.phases, worst.count_robust_phases(), strict=True)
        ],
        "phase_obstacle": worst.phase_obstacle or None,
        "broken_by_other_attacks": len(worst.other_breaking_attacks),
        **_encode_trust(select_distrust(evidence, worst.subject, worst.threat)),
        "clean_accuracy": worst.clean_accuracy.to_json(reason),
        "robust_accuracy": worst.robust_accuracy.to_json(reason),
        "attack_success": worst.attack_success.to_json(reason),
        "robust_accuracy_8bit": case.robust_accuracy.to_json(reason) if case else None,
        "attack_success_8bit": case.attack_success.to_json(reason) if case else None,
        "undecided_8bit": case.undecided_count if case else None,
    }


def _encode_shard(evidence: Evidence) -> JsonDict | None:
    """Encode which part of the images the run has; None for all of them."""
    shard = evidence.shard
    if shard is None:
        return None
    return {"index": shard.shard.index, "count": shard.shard.count, "images": shard.images, "of": shard.of}


def _encode_strongest_pair(evidence: Evidence) -> JsonDict | None:
    found = find_strongest_pair(evidence)
    if found is None:
        return None
    record = found.pair.cell.record
    return {
        "model": record.model,
        "defense": record.defense,
        "attack": record.attack,
        "threat": record.threat,
        "source": evidence.get_class_name(record.model, found.pair.source),
        "target": evidence.get_class_name(record.model, found.pair.target),
        "success": found.success.to_json(),
        "chosen_among": found.pair_count,
    }


def _encode_comparisons(evidence: Evidence) -> list[JsonDict]:
    return [
        {
            "threat": threat.name,
            "first": {"model": pair.first.model, "defense": pair.first.defense},
            "second": {"model": pair.second.model, "defense": pair.second.defense},
            "n": pair.comparison.n,
            "only_first": pair.comparison.only_first,
            "only_second": pair.comparison.only_second,
            "p_value": pair.comparison.p_value,
            "adjusted_p_value": pair.comparison.adjusted_p_value,
            "pairs": pair.comparison.family_size,
            "verdict": "differ" if pair.comparison.is_significant() else "tie",
        }
        for threat in evidence.threats
        for pair in evidence.compare_models(threat)
    ]


def _encode_gate_verdict(verdict: GateVerdict) -> JsonDict:
    keys = asdict(verdict.gate)
    del keys["max_drop"]  # the run's own gates compare with no baseline
    return {
        **keys,
        "on": verdict.gate.bound,
        "evaluated_model": asdict(verdict.subject) if verdict.subject else None,
        "estimate": _replace_infinity(verdict.estimate.to_json("nothing was measured")),
        "verdict": verdict.ruling,
        "reason": verdict.reason,
    }


def _replace_infinity(estimate: JsonDict) -> JsonDict:
    """Replace infinity, a distance beyond the searched radius, by null."""
    return {key: None if value == math.inf else value for key, value in estimate.items()}
