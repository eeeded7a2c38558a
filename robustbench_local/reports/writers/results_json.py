"""results.json: everything that was found, for programs. What is unknown is null, with a reason."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from robustbench_local.reports.analysis.certified_accuracy import Certification
from robustbench_local.reports.analysis.certified_vs_empirical import Bracket, make_brackets
from robustbench_local.reports.analysis.corruption_results import CorruptionMap, make_corruptions
from robustbench_local.reports.analysis.distances import measures_distance, reach
from robustbench_local.reports.analysis.doubt_finders import Doubt, find_doubts
from robustbench_local.reports.analysis.eight_bit_worst_case import EightBitCase, find_eight_bit_cases
from robustbench_local.reports.analysis.evidence import CellResult, Evidence, Subject, Threat
from robustbench_local.reports.analysis.gates import GateReport, Verdict, judge_evidence
from robustbench_local.reports.analysis.heatmap import Square
from robustbench_local.reports.analysis.misclassification_severity import Severity, severity_table, weigh
from robustbench_local.reports.analysis.naive_vs_adaptive import Lesson, make_lessons
from robustbench_local.reports.analysis.per_target import GoalTable, make_goal_tables
from robustbench_local.reports.analysis.read_run import read_evidence
from robustbench_local.reports.analysis.run_warnings import find
from robustbench_local.reports.analysis.sticker_results import make_stickers
from robustbench_local.reports.analysis.transfer_results import TransferMatrix, make_transfers
from robustbench_local.reports.analysis.worst_case import WorstCase
from robustbench_local.reports.formatting.text import private
from robustbench_local.reports.writers.sticker_text import sticker_json
from robustbench_local.statistics import Estimate
from robustbench_local.store import RunStore

SCHEMA = 1
"""Version of the form of results.json; keys may be added within one."""

JsonDict = dict[str, Any]
_ENDS = ("value", "low", "high")


def load_results(store: RunStore) -> JsonDict:
    """The content of results.json for an open run, as plain data without NaN."""
    evidence = read_evidence(store)
    return as_json(evidence, judge_evidence(evidence))


def as_json(evidence: Evidence, gates: GateReport) -> JsonDict:
    """The content of results.json.

    Args:
        evidence: What was found.
        gates: The verdicts on it.

    Returns:
        ``schema``, ``cells``, ``worst_case`` and ``environment`` as documented in the README, and besides
        ``comparisons``, ``gates``, ``findings``, ``doubts``, ``transfers``, ``brackets``, ``corruptions``,
        ``goals``, ``stickers``, ``data``, ``models``, ``severity``, ``seed`` and ``grid``. Shares lie in
        [0, 1]; one that is not known is ``{"value": null, ..., "reason": "..."}``.
    """
    return {
        "schema": SCHEMA,
        "question": evidence.question,
        "cells": [_cell(cell, evidence) for cell in evidence.cells],
        "worst_case": [_worst_case(worst, _eight_bit(evidence)) for worst in evidence.worst_cases],
        "comparisons": _comparisons(evidence),
        "gates": {
            "exit_code": gates.exit_code,
            "verdicts": [_verdict(one) for one in gates.verdicts],
            "violations": list(gates.violations),
        },
        "findings": [asdict(finding) for finding in find(evidence)],
        "doubts": [_doubt(doubt) for doubt in find_doubts(evidence)],
        "transfers": [_transfer(one) for one in make_transfers(evidence)],
        "defenses": [_lesson(one) for one in make_lessons(evidence)],
        "brackets": [_bracket(one) for one in make_brackets(evidence)],
        "corruptions": [_corruption(one) for one in make_corruptions(evidence)],
        "goals": [_goal_table(one) for one in make_goal_tables(evidence)],
        "stickers": [sticker_json(one) for one in make_stickers(evidence)],
        "environment": dict(evidence.environment),
        "data": dict(evidence.data),
        "models": [dict(about) for about in evidence.models],
        "severity": dict(evidence.severity) or None,
        "seed": evidence.seed,
        "grid": dict(evidence.grid),
    }


def to_text(content: JsonDict) -> str:
    """The same as text, one line ending at the end.

    Raises:
        ValueError: If a NaN or an infinity got in: JSON has no such thing (F78).
    """
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _cell(cell: CellResult, evidence: Evidence) -> JsonDict:
    record, counts = cell.record, cell.tally
    return {
        "model": record.model,
        "defense": record.defense,
        "attack": record.attack,
        "norm": record.norm,
        "eps": record.eps,
        "goal": record.goal,
        "status": record.status,
        "n": counts.n,
        "clean_accuracy": _share(cell, cell.clean_accuracy),
        "robust_accuracy": _share(cell, cell.robust_accuracy),
        "attack_success": _share(cell, cell.attack_success),
        "forward_passes": counts.forward_passes,
        "backward_passes": counts.backward_passes,
        "seconds": counts.seconds,
        "standing": cell.standing,
        "error": cell.problem,
        "threat": record.threat,
        "card": record.card,
        "targets": [evidence.class_name(record.model, target) for target in record.targets],
        "sources": [evidence.class_name(record.model, source) for source in record.sources],
        "images": record.images,
        "excluded": record.excluded,
        "attack_success_8bit": _share(cell, cell.attack_success_8bit),
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
            "gradients_missing": counts.gradients_missing,
            "spared": 0 if cell.certificate else counts.certified,
        },
        "parameters": record.parameters,
        "note": record.note,
        "key": record.key,
        "identity": private(record.identity),
        "knowledge": record.knowledge,
        "surrogate": record.surrogate,
        "measure": record.measure,
        "queries": cell.spending._asdict(),
        **({"severity": _severity(cell, evidence)} if cell.targeted else {}),
        **({"distance": _distance(cell)} if measures_distance(cell) and cell.done else {}),
        **(_certified(cell) if cell.certificate else {}),
    }


def _certified(cell: CellResult) -> JsonDict:
    """What is proven, over the radius too; about the model or its vote under noise, and how surely."""
    points = ((radius, share.as_json()) for radius, share in Certification(cell=cell).points)
    return {
        "certified_accuracy": _share(cell, cell.certified_accuracy),
        "certified": cell.tally.certified,
        "abstained": cell.tally.abstained,
        "concerns": cell.record.concerns,
        "alpha": cell.record.alpha,
        "curve": [{"radius": radius, **{key: share[key] for key in _ENDS}} for radius, share in points],
    }


def _distance(cell: CellResult) -> JsonDict:
    """How far the attack had to go; null stands for farther than eps."""
    found = reach(cell)
    spread = found.distances
    ends = (spread.median, spread.low, spread.high, spread.lower, spread.upper)
    median, low, high, lower, upper = (end if math.isfinite(end) else None for end in ends)
    points = ((step, share.as_json()) for step, share in found.points)
    return {
        "norm": cell.record.norm,
        "n": spread.n,
        "median": median,
        "median_interval": [low, high],
        "quartiles": [lower, median, upper],
        "n_unbroken": found.unbroken,
        "curve": [{"radius": step, **{key: share[key] for key in _ENDS}} for step, share in points],
    }


def _doubt(doubt: Doubt) -> JsonDict:
    return {
        "model": doubt.subject.model,
        "defense": doubt.subject.defense,
        "threat": doubt.threat.name,
        "n": len(doubt.images),
        "images": sorted(doubt.images),
        "clean": doubt.clean,
        "reason": doubt.reason,
        "remedy": doubt.remedy,
    }


def _transfer(matrix: TransferMatrix) -> JsonDict:
    return {
        "attack": matrix.attack,
        "threat": matrix.threat.name,
        "goal": "targeted" if matrix.targeted else "untargeted",
        "targets": [asdict(target) for target in matrix.targets],
        "surrogates": [row.surrogate for row in matrix.rows],
        "attack_success": [[_square(square) for square in row.squares] for row in matrix.rows],
    }


def _lesson(lesson: Lesson) -> JsonDict:
    test = lesson.comparison
    return {
        "model": lesson.subject.model,
        "defense": lesson.subject.defense,
        "attack": lesson.attack,
        "threat": lesson.threat.name,
        "undefended": _square(lesson.undefended),
        "naive": _square(lesson.naive),
        "adaptive": _square(lesson.adaptive),
        "n": test.n if test else None,
        "only_naive": test.only_first if test else None,
        "only_adaptive": test.only_second if test else None,
        "p_value": test.p_value if test else None,
        "told": lesson.sentence,
    }


def _bracket(bracket: Bracket) -> JsonDict:
    return {
        "model": bracket.subject.model,
        "defense": bracket.subject.defense,
        "threat": bracket.threat.name,
        "certificates": list(bracket.certificates),
        "attacks": list(bracket.attacks),
        "verified": bracket.verified.as_json(),
        "empirical": bracket.empirical.as_json(),
        "undecided": bracket.undecided,
    }


def _corruption(found: CorruptionMap) -> JsonDict:
    return {
        "model": found.subject.model,
        "defense": found.subject.defense,
        "clean_accuracy": found.clean.as_json(),
        "severities": list(found.severities),
        "corruptions": [row.label for row in found.rows],
        "accuracy": [[_square(square) for square in row.squares] for row in found.rows],
        "mean_by_severity": [_square(square) for square in found.mean.squares],
        "mean_by_corruption": [_square(row.overall) for row in found.rows],
        "mean": _square(found.mean.overall),
        "complete": not found.mean.overall.reason,
    }


def _severity(cell: CellResult, evidence: Evidence) -> JsonDict | None:
    """What the readings of a targeted cell cost; null where nothing is known about severity."""
    table = severity_table(evidence, cell.record.model, cell.record.sources)
    return _weighed(weigh(table, cell.readings.values())) if table and cell.readings else None


def _weighed(severity: Severity) -> JsonDict:
    return {
        "expected": severity.expected.as_json(),
        "worst": severity.worst,
        "worst_class": severity.worst_class,
        "worst_count": severity.worst_count,
    }


def _goal_table(table: GoalTable) -> JsonDict:
    return {
        "attack": table.attack,
        "threat": table.threat.name,
        "sources": table.sources,
        "subjects": [asdict(subject) for subject in table.subjects],
        "goals": [row.goal for row in table.rows],
        "severities": [row.severity for row in table.rows],
        "attack_success": [[_square(square) for square in row.squares] for row in table.rows],
        "elsewhere": [[square.elsewhere for square in row.squares] for row in table.rows],
        "held": [[square.held for square in row.squares] for row in table.rows],
        "most_severe": [None if harm is None else _weighed(harm) for harm in table.harms],
        "told": list(table.comparisons),
    }


def _square(square: Square) -> JsonDict:
    return square.estimate.as_json(square.reason or square.word)


def _share(cell: CellResult, estimate: Estimate) -> JsonDict:
    asked = "a certificate, no attack" if cell.certificate else "no image to count"
    reason = asked if cell.done else f"{cell.standing}: {cell.problem or 'no result'}"
    return estimate.as_json(reason=reason)


def _eight_bit(evidence: Evidence) -> dict[tuple[Subject, Threat], EightBitCase]:
    return {(case.subject, case.threat): case for case in find_eight_bit_cases(evidence)}


def _worst_case(worst: WorstCase, cases: Mapping[tuple[Subject, Threat], EightBitCase]) -> JsonDict:
    reason = "no attack under this threat is done" if not worst.attacks else "no image to count"
    case = cases.get((worst.subject, worst.threat))
    return {
        "model": worst.subject.model,
        "defense": worst.subject.defense,
        "threat": worst.threat.name,
        "norm": worst.threat.norm,
        "eps": worst.threat.eps,
        "attacks": list(worst.attacks),
        "missing": list(worst.missing),
        "complete": worst.complete,
        "n": worst.robust_accuracy.n,
        "n_met_by_all": len(worst.verdicts),
        "n_met_by_any": len(worst.every),
        "unbroken_so_far": sum(verdict.robust for verdict in worst.every.values()),
        "broken_elsewhere": len(worst.elsewhere),
        "clean_accuracy": worst.clean_accuracy.as_json(reason),
        "robust_accuracy": worst.robust_accuracy.as_json(reason),
        "attack_success": worst.attack_success.as_json(reason),
        "robust_accuracy_8bit": case.robust_accuracy.as_json(reason) if case else None,
        "attack_success_8bit": case.attack_success.as_json(reason) if case else None,
        "undecided_8bit": case.undecided if case else None,
    }


def _comparisons(evidence: Evidence) -> list[JsonDict]:
    return [
        {
            "threat": threat.name,
            "first": {"model": pair.first.model, "defense": pair.first.defense},
            "second": {"model": pair.second.model, "defense": pair.second.defense},
            "n": pair.comparison.n,
            "only_first": pair.comparison.only_first,
            "only_second": pair.comparison.only_second,
            "p_value": pair.comparison.p_value,
            "verdict": "differ" if pair.comparison.significant() else "tie",
        }
        for threat in evidence.threats
        for pair in evidence.pairs(threat)
    ]


def _verdict(verdict: Verdict) -> JsonDict:
    return {
        **asdict(verdict.gate),
        "on": verdict.gate.bound,
        "subject": asdict(verdict.subject) if verdict.subject else None,
        "estimate": _finite(verdict.estimate.as_json("nothing was measured")),
        "verdict": verdict.ruling,
        "reason": verdict.reason,
    }


def _finite(estimate: JsonDict) -> JsonDict:
    """The same with null for infinity: a distance that is larger than the attacks looked for."""
    return {key: None if value == math.inf else value for key, value in estimate.items()}
