"""compare.json: a comparison of runs for programs. An unknown value is null."""

from __future__ import annotations

from dataclasses import asdict

from robustbench_local.reports.analysis.compared_run import ComparedRun
from robustbench_local.reports.analysis.run_comparison import RunComparison
from robustbench_local.reports.sections.comparison import COMPARISON_SECTIONS
from robustbench_local.reports.sections.comparison.comparison_data import ComparisonData
from robustbench_local.reports.sections.comparison.comparison_section import encode_subjects
from robustbench_local.reports.sections.comparison.share_table_section import encode_row
from robustbench_local.reports.sections.section import JsonDict
from robustbench_local.reports.summary.comparison_answer import (
    describe_comparison_answer,
    describe_question,
    list_cautions,
    list_change_sentences,
)

COMPARISON_SCHEMA_VERSION = 1
"""Version of the schema of compare.json; keys may be added within a version."""


def encode_comparison(data: ComparisonData) -> JsonDict:
    """Encode the content of compare.json.

    Args:
        data: The comparison.

    Returns:
        ``schema``, ``question``, ``answer``, ``baseline`` and ``comparisons``: for each other run ``run``,
        ``paired``, ``sentences``, ``cautions``, ``differences``, ``models`` with the row that answers the
        question, and the entries of each section. Shares lie in [0, 1]; differences are of the run less the
        baseline; one that is not known is null.
    """
    return {
        "schema": COMPARISON_SCHEMA_VERSION,
        "question": describe_question(data.comparisons),
        "answer": describe_comparison_answer(data.comparisons),
        "baseline": _encode_run(data.comparisons[0].baseline),
        "comparisons": [
            _encode_run_comparison(comparison, is_single=data.is_single) for comparison in data.comparisons
        ],
    }


def _encode_run_comparison(comparison: RunComparison, *, is_single: bool) -> JsonDict:
    return {
        "run": _encode_run(comparison.candidate),
        "paired": comparison.is_paired,
        "same_weights": comparison.has_same_weights,
        "sentences": list_change_sentences(comparison, is_single=is_single),
        "cautions": list_cautions(comparison),
        "differences": [
            {key: value for key, value in asdict(difference).items() if key != "cells"}
            for difference in comparison.differences
        ],
        "models": [
            {
                **encode_subjects(model.subjects),
                "verdict": model.main_row.change.verdict if model.main_row else "unknown",
                "row": encode_row(model.main_row) if model.main_row else None,
            }
            for model in comparison.models
        ],
        **_encode_sections(comparison),
    }


def _encode_sections(comparison: RunComparison) -> JsonDict:
    entries: JsonDict = {}
    for section in COMPARISON_SECTIONS:
        entries |= section.to_json(comparison)
    return entries


def _encode_run(run: ComparedRun) -> JsonDict:
    evidence = run.evidence
    return {
        "name": run.name,
        "data": {key: evidence.data.get(key) for key in ("name", "split", "n", "digest")},
        "seed": evidence.seed,
        "environment": dict(evidence.environment),
        "gates_exit_code": run.gate_report.exit_code,
    }
