"""Models compared on how often an attacker reached a goal: the same images, read rightly by both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from robustbench_local.reports.analysis.evidence import Subject
from robustbench_local.reports.formatting.text import SPACE, counted, isolated, p_value, percent
from robustbench_local.statistics import Comparison, mcnemar

Reached = Mapping[str, bool]
"""Image id -> whether the goal was reached, over the images that are read rightly untouched."""


def contrast(reached: Mapping[Subject, Reached]) -> list[str]:
    """One sentence for each model that the one with the fewest successes against it is compared with.

    Args:
        reached: What the attacker reached against each model; models without images are left out.
    """
    met = {one: marks for one, marks in reached.items() if marks}
    if len(met) < 2:
        return []
    common = set.intersection(*(set(marks) for marks in met.values()))
    compared = {one: [marks[image] for image in common or marks] for one, marks in met.items()}
    shares = {one: sum(marks) / len(marks) for one, marks in compared.items()}
    best = min(shares, key=lambda one: shares[one])
    return [_compare(best, other, reached) for other in shares if other != best]


def _compare(best: Subject, other: Subject, reached: Mapping[Subject, Reached]) -> str:
    images = [image for image in reached[best] if image in reached[other]]
    first, second = isolated(str(best)), isolated(str(other))
    hit = [[reached[one][image] for image in images] for one in (best, other)]
    test = mcnemar(*hit)
    basis = f"same {counted(test.n, 'image')}, exact McNemar {p_value(test.p_value)}"
    if not test.significant():
        split = f"{counted(test.only_first, 'image')} only on {first}, {test.only_second:,} only on {second}"
        return f"{tied(first, second, test)}: the goal was reached with {split} ({basis})."
    low, high = (_share(marks) for marks in hit)
    points = f"{100 * (high - low):.1f}{SPACE}points"
    split = f"{counted(test.only_second, 'image')} only on {second}, {test.only_first:,} only on {first}"
    shares = f"{percent(low)} against {percent(high)}, {points} less"
    return f"The goal was reached less often on {first} than on {second}: {shares}; {split} ({basis})."


def tied(first: str, second: str, test: Comparison) -> str:
    """Two models between which a test does not decide, or could not have decided whatever it saw."""
    if test.could_tell():
        return f"{first} and {second} tie"
    return f"{counted(test.n, 'image')} cannot tell {first} and {second} apart"


def _share(marks: Sequence[bool]) -> float:
    return sum(marks) / len(marks)
