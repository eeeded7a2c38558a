"""The verdict of a comparison in a word: worse, better, both, or nothing shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from robustbench_local.reports.analysis.run_comparison import RunComparison
from robustbench_local.reports.analysis.share_change import ChangeVerdict
from robustbench_local.reports.summary.comparison_answer import find_obstacle


@dataclass(frozen=True)
class ComparisonVerdict:
    """What a banner says of a comparison."""

    label: str
    """The verdict in capitals, such as ``WORSE``."""
    ruling: str
    """The ruling whose colors it has: ``pass``, ``fail`` or ``inconclusive``."""


def decide_comparison(comparisons: Sequence[RunComparison]) -> ComparisonVerdict:
    """Join the verdicts of all models and threat models, so that a gain never hides a loss.

    Args:
        comparisons: The runs, each against the baseline.

    Returns:
        ``WORSE`` or ``BETTER`` if significant changes go one way, ``BETTER AND WORSE`` if they go both ways,
        ``BETTER IN PART`` if a model has no answer, else ``NO DIFFERENCE SHOWN`` or ``NO ANSWER``.
    """
    verdicts = {verdict for comparison in comparisons for verdict in _list_verdicts(comparison)}
    if "worse" in verdicts:
        return ComparisonVerdict("BETTER AND WORSE" if "better" in verdicts else "WORSE", "fail")
    if "better" in verdicts:
        is_partial = "unknown" in verdicts
        return ComparisonVerdict(
            "BETTER IN PART" if is_partial else "BETTER", "inconclusive" if is_partial else "pass"
        )
    is_unknown = "unknown" in verdicts or not verdicts
    return ComparisonVerdict("NO ANSWER" if is_unknown else "NO DIFFERENCE SHOWN", "inconclusive")


def _list_verdicts(comparison: RunComparison) -> Iterator[ChangeVerdict]:
    """List the verdict on each model, then on each other threat model and on clean accuracy."""
    blocked = [pair for pair in comparison.pairs if find_obstacle(comparison, pair)]
    for model in comparison.models:
        is_known = model.main_row is not None and model.subjects not in blocked
        yield model.main_row.change.verdict if model.main_row is not None and is_known else "unknown"
    for row in (*comparison.tables["worst_cases"], *comparison.tables["clean"]):
        if row.subjects not in blocked and row.change.verdict in {"worse", "better"}:
            yield row.change.verdict
