"""Pairwise comparison of attack success on images that both models classify correctly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from robustbench_local.cluster_statistics import Groups, compare_images
from robustbench_local.counted_nouns import choose_form
from robustbench_local.paired_tests import Comparison, adjust_by_holm
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.formatting.text import (
    format_count,
    format_percent,
    format_test,
    isolate_direction,
)

SuccessByImage = Mapping[str, bool]
"""Image id -> whether the attack succeeded, over the images that are classified correctly clean."""


def describe_success_comparisons(
    successes: Mapping[EvaluatedModel, SuccessByImage], groups: Groups
) -> list[str]:
    """Compare the model of lowest attack success with each other model, one sentence each.

    The p-values are adjusted for all pairs of models: which one is lowest is known only from the data.

    Args:
        successes: Attack success by image against each model; models without images are omitted.
        groups: Group of each image; empty if the images are independent.
    """
    met = {subject: marks for subject, marks in successes.items() if marks}
    if len(met) < 2:
        return []
    common = set.intersection(*(set(marks) for marks in met.values()))
    compared = {subject: [marks[image] for image in common or marks] for subject, marks in met.items()}
    shares = {subject: sum(marks) / len(marks) for subject, marks in compared.items()}
    best = min(shares, key=lambda subject: shares[subject])
    others = [subject for subject in shares if subject != best]
    pairs = list(combinations([best, *others], 2))  # the pairs of the best come first
    tests = adjust_by_holm([compare_images(successes[one], successes[other], groups) for one, other in pairs])
    return [
        _describe_comparison(best, other, successes, test)
        for other, test in zip(others, tests[: len(others)], strict=True)
    ]


def _describe_comparison(
    best: EvaluatedModel,
    other: EvaluatedModel,
    reached: Mapping[EvaluatedModel, SuccessByImage],
    test: Comparison,
) -> str:
    images = [image for image in reached[best] if image in reached[other]]
    first, second = isolate_direction(str(best)), isolate_direction(str(other))
    hit = [[reached[one][image] for image in images] for one in (best, other)]
    basis = f"same {format_count(test.n, 'image')}, {format_test(test)}"
    if not test.is_significant():
        split = (
            f"{format_count(test.only_first, 'image')} only on {first}, {test.only_second:,} only on {second}"
        )
        return f"{describe_tie(first, second, test)}: the goal was reached on {split} ({basis})."
    low, high = (_compute_share(marks) for marks in hit)
    points = f"{100 * (high - low):.1f} points"
    split = f"{format_count(test.only_second, 'image')} only on {second}, {test.only_first:,} only on {first}"
    shares = f"{format_percent(low)} against {format_percent(high)}, {points} less"
    return f"Attack success is lower on {first} than on {second}: {shares}; {split} ({basis})."


def describe_tie(first: str, second: str, test: Comparison) -> str:
    """Describe two models whose difference is not significant, or cannot be with so few images."""
    if test.has_enough_images():
        return f"No significant difference between {first} and {second}"
    sample = format_count(test.groups, "group") if test.groups else format_count(test.n, "image")
    verb = choose_form(test.groups or test.n, "is", "are")
    return f"{sample} {verb} too few to compare {first} and {second}"


def _compute_share(marks: Sequence[bool]) -> float:
    return sum(marks) / len(marks)
