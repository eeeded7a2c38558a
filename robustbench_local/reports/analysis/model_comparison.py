"""Models compared on the same images, by their worst cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import starmap

from robustbench_local.cluster_statistics import compare_images
from robustbench_local.paired_tests import Comparison, adjust_by_holm
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.reports.analysis.worst_case import WorstCase


@dataclass(frozen=True, kw_only=True)
class ModelComparison:
    """Two subjects compared on the same images under the same threat model."""

    first: EvaluatedModel
    """The subject of higher robust accuracy, or the earlier one."""
    second: EvaluatedModel
    """The other."""
    threat: Threat
    """The threat model."""
    comparison: Comparison
    """McNemar's exact test on their worst cases."""


def compare_worst_cases(pairs: Sequence[tuple[WorstCase, WorstCase]]) -> list[ModelComparison]:
    """Compare pairs of worst cases under one threat model, adjusted for the number of pairs (Holm)."""
    tests = adjust_by_holm(list(starmap(_test_pair, pairs)))
    return [
        ModelComparison(first=first.subject, second=second.subject, threat=first.threat, comparison=test)
        for (first, second), test in zip(pairs, tests, strict=True)
    ]


def _test_pair(first: WorstCase, second: WorstCase) -> Comparison:
    robust_on_first, robust_on_second = (
        {image: verdict.robust for image, verdict in worst.verdicts.items()} for worst in (first, second)
    )
    return compare_images(robust_on_first, robust_on_second, first.groups)
