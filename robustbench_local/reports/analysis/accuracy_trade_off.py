"""Clean and robust accuracy of the models of a run: which model another one significantly dominates.

A model dominates another if neither of its two accuracies is lower on their common images, and one of them
is significantly higher by a paired test. Intervals that overlap say nothing about that: models are compared
image by image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple

from robustbench_local.cluster_statistics import Marks, compare_images
from robustbench_local.paired_tests import Comparison, adjust_by_holm
from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.reports.analysis.trust import format_mark, select_blocks, select_distrust
from robustbench_local.reports.analysis.worst_case import WorstCase
from robustbench_local.statistics import Estimate

AccuracyName = Literal["clean accuracy", "robust accuracy"]


class AccuracyDifference(NamedTuple):
    """An accuracy in which a model is significantly higher than another."""

    accuracy: AccuracyName
    """Which of the two accuracies."""
    test: Comparison
    """The paired test."""


@dataclass(frozen=True, kw_only=True)
class Dominance:
    """Another model that dominates the model of a point."""

    subject: EvaluatedModel
    """The model that dominates."""
    differences: tuple[AccuracyDifference, ...]
    """The accuracies in which it is significantly higher, at least one; in the other it is not lower."""


@dataclass(frozen=True, kw_only=True)
class TradeOffPoint:
    """One model: both accuracies of the same images."""

    number: int
    """Number of the model in the chart, from 1 in the order of the grid."""
    subject: EvaluatedModel
    """The model and defense."""
    clean_accuracy: Estimate
    """Share of the images that are correctly classified without an attack."""
    robust_accuracy: Estimate
    """Share of these images that are robust in the worst case over attacks."""
    is_on_front: bool
    """Whether no other model is observed to be higher in one accuracy and not lower in the other; never for a
    model with a caveat."""
    dominance: Dominance | None
    """The model that significantly dominates it; None without one."""
    caveat: str
    """Why its robust accuracy may be too high; empty if nothing says so. It then dominates no other model."""


@dataclass(frozen=True, kw_only=True)
class TradeOff:
    """Clean and robust accuracy of all models under one threat model."""

    threat: Threat
    """The threat model."""
    points: tuple[TradeOffPoint, ...]
    """Two models or more, in the order of the grid."""
    left_out: tuple[EvaluatedModel, ...]
    """Models without a number: void, or without a done attack."""
    is_headline: bool
    """Whether it is the threat model of the report's answer; otherwise it is folded, and without a figure."""
    tests: tuple[Comparison, ...]
    """The paired tests of both accuracies of all pairs, adjusted for their number."""

    @property
    def image_counts(self) -> tuple[int, ...]:
        """Numbers of images of the points, ascending, each once; several if the models have other images."""
        return tuple(sorted({point.robust_accuracy.n for point in self.points}))

    @property
    def tested_image_counts(self) -> tuple[int, int]:
        """Smallest and largest number of images of a paired test."""
        counts = [test.n for test in self.tests]
        return min(counts), max(counts)

    @property
    def label_by_number(self) -> dict[int, str]:
        """What to write beside each point: of points in one place the first has all numbers, ``1, 5``."""
        numbers: dict[tuple[float, float], list[int]] = {}
        for point in self.points:
            place = (point.clean_accuracy.value, point.robust_accuracy.value)
            numbers.setdefault(place, []).append(point.number)
        labels = dict.fromkeys((point.number for point in self.points), "")
        return labels | {together[0]: ", ".join(map(str, together)) for together in numbers.values()}

    @property
    def front(self) -> tuple[TradeOffPoint, ...]:
        """The points on the observed front, by ascending clean accuracy."""
        chosen = (point for point in self.points if point.is_on_front)
        return tuple(
            sorted(chosen, key=lambda point: (point.clean_accuracy.value, -point.robust_accuracy.value))
        )


_Differences = Mapping[tuple[EvaluatedModel, EvaluatedModel], tuple[AccuracyDifference, ...]]
"""(dominating model, dominated model) -> the accuracies in which it is significantly higher."""


@collect_once
def build_trade_offs(evidence: Evidence) -> Iterator[TradeOff]:
    """Build one trade-off for each threat model that has numbers of two models or more."""
    for threat in evidence.threats:
        worst_cases = {
            worst.subject: worst
            for worst in evidence.worst_cases
            if worst.threat == threat
            and worst.robust_accuracy.is_known
            and not select_blocks(evidence, worst.subject)
        }
        if len(worst_cases) > 1:
            tested = {worst.subject for worst in evidence.worst_cases if worst.threat == threat}
            pairs = list(combinations(worst_cases.values(), 2))
            tests = adjust_by_holm([test for pair in pairs for test in _test_pair(*pair)])
            differences = _find_differences(pairs, tests)
            yield TradeOff(
                threat=threat,
                points=tuple(_build_points(evidence, list(worst_cases.values()), differences)),
                tests=tuple(tests),
                is_headline=threat == evidence.headline_threat,
                left_out=tuple(
                    subject
                    for subject in evidence.subjects
                    if subject in tested and subject not in worst_cases
                ),
            )


def _build_points(
    evidence: Evidence, worst_cases: Sequence[WorstCase], differences: _Differences
) -> Iterator[TradeOffPoint]:
    caveats = {worst.subject: _describe_caveat(evidence, worst) for worst in worst_cases}
    trusted = {worst.subject: _get_values(worst) for worst in worst_cases if not caveats[worst.subject]}
    for number, worst in enumerate(worst_cases, start=1):
        dominances = [
            Dominance(subject=other, differences=found)
            for other in trusted
            if (found := differences.get((other, worst.subject), ()))
        ]
        own = _get_values(worst)
        yield TradeOffPoint(
            number=number,
            subject=worst.subject,
            clean_accuracy=worst.clean_accuracy,
            robust_accuracy=worst.robust_accuracy,
            is_on_front=worst.subject in trusted
            and not any(_is_above(other, own) for other in trusted.values()),
            # one that is higher in both rather than in one, then the one of highest robust accuracy
            dominance=max(
                dominances, key=lambda one: (len(one.differences), trusted[one.subject][1]), default=None
            ),
            caveat=caveats[worst.subject],
        )


def _describe_caveat(evidence: Evidence, worst: WorstCase) -> str:
    mark = format_mark(select_distrust(evidence, worst.subject, worst.threat))
    return ", ".join(filter(None, [mark, "" if worst.is_complete else "incomplete"]))


def _get_values(worst: WorstCase) -> tuple[float, float]:
    return worst.clean_accuracy.value, worst.robust_accuracy.value


def _is_above(other: tuple[float, float], own: tuple[float, float]) -> bool:
    """Return whether an observed point is at least as high in both accuracies, and higher in one."""
    return other != own and all(one >= two for one, two in zip(other, own, strict=True))


def _find_differences(
    pairs: Sequence[tuple[WorstCase, WorstCase]], tests: Sequence[Comparison]
) -> _Differences:
    """Find the pairs in which one model dominates; ``tests`` has clean and robust accuracy of each pair."""
    found: dict[tuple[EvaluatedModel, EvaluatedModel], tuple[AccuracyDifference, ...]] = {}
    for index, (first, second) in enumerate(pairs):
        clean, robust = tests[2 * index : 2 * index + 2]
        named: list[tuple[AccuracyName, Comparison]] = [
            ("clean accuracy", clean),
            ("robust accuracy", robust),
        ]
        leads = [test.only_first - test.only_second for _, test in named]
        higher = tuple(AccuracyDifference(name, test) for name, test in named if test.is_significant())
        if higher and min(leads) >= 0:
            found[first.subject, second.subject] = higher
        elif higher and max(leads) <= 0:
            found[second.subject, first.subject] = higher
    return found


def _test_pair(first: WorstCase, second: WorstCase) -> tuple[Comparison, Comparison]:
    """Compare clean and robust accuracy on the images that all attacks of both models have."""
    return (
        compare_images(_mark_correct(first), _mark_correct(second), first.groups),
        compare_images(_mark_robust(first), _mark_robust(second), first.groups),
    )


def _mark_correct(worst: WorstCase) -> Marks:
    return {image: verdict.clean_correct for image, verdict in worst.verdicts.items()}


def _mark_robust(worst: WorstCase) -> Marks:
    return {image: verdict.robust for image, verdict in worst.verdicts.items()}
