"""Tables of shares: worst cases, attacks, classes and clean accuracy, each with its change."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from robustbench_local.counted_nouns import format_count
from robustbench_local.reports.analysis.compared_rows import ComparedRow
from robustbench_local.reports.analysis.run_comparison import RunComparison, TableName
from robustbench_local.reports.analysis.share_change import ShareChange
from robustbench_local.reports.formatting.text import (
    MISSING_TEXT,
    format_estimate,
    format_interval,
    format_p_value,
    format_percent,
    format_points,
)
from robustbench_local.reports.sections.comparison.comparison_data import ComparisonData
from robustbench_local.reports.sections.comparison.comparison_section import (
    ComparisonSection,
    TextTable,
    encode_subjects,
    list_name_headings,
    list_names,
    list_run_headings,
)
from robustbench_local.reports.sections.section import JsonDict
from robustbench_local.statistics import Estimate

MAX_SHOWN_CLASSES = 12
"""Classes that the page and Markdown show for each model; compare.json has all of them."""


class ShareTableSection(ComparisonSection):
    """One table of a comparison.

    Args:
        table: The rows.
        anchor: Id of the heading.
        title: Heading.
        what: Heading of the column that tells rows of one model apart; empty without one.
        explanation: How to read it.
        max_rows: Rows shown for each comparison, the largest changes first; None shows all in their order.
    """

    template = "share_table.html.j2"

    def __init__(
        self,
        table: TableName,
        *,
        anchor: str,
        title: str,
        what: str,
        explanation: str,
        max_rows: int | None = None,
    ) -> None:
        self.table: TableName = table
        self.anchor, self.title, self.what, self.explanation = anchor, title, what, explanation
        self.max_rows = max_rows

    def is_shown(self, data: ComparisonData) -> bool:
        """Return whether any comparison has a row to show."""
        return any(self.select_rows(comparison) for comparison in data.comparisons)

    def select_rows(self, comparison: RunComparison) -> list[ComparedRow]:
        """Select the rows that are shown; of many classes those that changed, the most lost first."""
        rows = [*comparison.tables[self.table]]
        if self.max_rows is None:
            return rows
        changed = [row for row in rows if _has_changed(row.change)]
        return sorted(changed, key=lambda row: row.change.value)[: self.max_rows * len(comparison.models)]

    def describe_hidden_rows(self, comparison: RunComparison) -> str:
        """Describe how many rows are not shown; empty if all are."""
        hidden = len(comparison.tables[self.table]) - len(self.select_rows(comparison))
        if not hidden:
            return ""
        more = format_count(hidden, "further class")
        return f"{more} with smaller changes or none: see compare.json."

    def describe_label(self, row: ComparedRow) -> str:
        """Describe what tells the row apart from others of the same model."""
        if self.table == "worst_cases" and row.threat is not None:
            return f"{row.threat.name} ({row.threat}): {row.label}"
        if self.table == "attacks" and row.threat is not None:
            certified = ", certified accuracy" if row.metric == "certified accuracy" else ""
            return f"{row.label} ({row.threat.name}{certified})"
        return row.label

    def build_tables(self, data: ComparisonData) -> Iterator[TextTable]:
        """Build one table over all runs."""
        head = [*list_name_headings(data), *([self.what] if self.what else []), *list_run_headings(data)]
        yield TextTable(
            head=[*head, "difference in points", "n", "lost", "won", "p", "verdict"],
            rows=[
                self._format_row(data, comparison, row)
                for comparison in data.comparisons
                for row in self.select_rows(comparison)
            ],
            notes=list(filter(None, map(self.describe_hidden_rows, data.comparisons))),
        )

    def to_json(self, comparison: RunComparison) -> JsonDict:
        """Encode all rows under the name of the table."""
        return {self.table: [encode_row(row) for row in comparison.tables[self.table]]}

    def _format_row(self, data: ComparisonData, comparison: RunComparison, row: ComparedRow) -> list[str]:
        change = row.change
        return [
            *list_names(data, comparison, row.subjects),
            *([self.describe_label(row)] if self.what else []),
            format_share(change.first, change),
            format_share(change.second, change),
            format_difference(change),
            format_images(change),
            *format_counts(change),
            format_p(change),
            ", ".join([change.verdict, *row.marks]),
        ]


def _has_changed(change: ShareChange) -> bool:
    """Return whether any image changed sides; always true if images are not paired."""
    return bool(change.lost_images or change.won_images or not change.is_paired)


def format_share(share: Estimate, change: ShareChange) -> str:
    """Format one of the two shares with its interval; n has a column of its own where it is that of both."""
    if not (change.is_paired and share.is_known):
        return format_estimate(share)
    return f"{format_percent(share.value)} ({format_interval(share)})"


def format_images(change: ShareChange) -> str:
    """Format the number of images of both runs; a dash if they have other images."""
    if change.test is None:
        return MISSING_TEXT
    groups = f" in {format_count(change.test.groups, 'group')}" if change.test.groups else ""
    return f"{change.test.n:,}{groups}"


def format_difference(change: ShareChange) -> str:
    """Format the difference in points with its interval; unpaired ones say so."""
    if not change.is_known:
        return MISSING_TEXT
    unpaired = "" if change.is_paired else ", other images"
    interval = f"{format_points(change.low)} to {format_points(change.high)}"
    return f"{format_points(change.value)} ({interval}{unpaired})"


def format_counts(change: ShareChange) -> tuple[str, str]:
    """Format the numbers of lost and won images; dashes if the images are not the same."""
    if change.test is None:
        return MISSING_TEXT, MISSING_TEXT
    return f"{change.test.only_first:,}", f"{change.test.only_second:,}"


def format_p(change: ShareChange) -> str:
    """Format the p-value, adjusted for the table; a dash without a test."""
    if change.test is None or not change.is_known:
        return MISSING_TEXT
    value = change.test.p_value if change.test.adjusted_p_value is None else change.test.adjusted_p_value
    return format_p_value(value).removeprefix("p = ").removeprefix("p ")


def encode_row(row: ComparedRow) -> dict[str, Any]:
    """Encode a row for compare.json."""
    change, test = row.change, row.change.test
    return {
        **encode_subjects(row.subjects),
        "label": row.label,
        "metric": row.metric,
        "threat": row.threat.name if row.threat else None,
        "baseline": change.first.to_json(),
        "candidate": change.second.to_json(),
        "difference": {
            "value": None if math.isnan(change.value) else change.value,
            "low": change.low,
            "high": change.high,
            "paired": change.is_paired,
        },
        "n": test.n if test else None,
        "lost": test.only_first if test else None,
        "won": test.only_second if test else None,
        "p_value": test.p_value if test else None,
        "adjusted_p_value": test.adjusted_p_value if test else None,
        "family_size": test.family_size if test else None,
        "verdict": change.verdict,
        "marks": list(row.marks),
    }


WORST_CASES = ShareTableSection(
    "worst_cases",
    anchor="worst-cases",
    title="Robust accuracy, worst case over attacks",
    what="threat model and attacks",
    explanation=(
        "An image counts as robust if none of the attacks succeeds that both runs finished. Lost: robust in "
        "the baseline only; won: robust in the other run only. Differences are of the second share less the "
        "first; p-values are exact (McNemar) and adjusted for the rows of the table (Holm)."
    ),
)
ATTACKS = ShareTableSection(
    "attacks",
    anchor="attacks",
    title="Each attack and certificate",
    what="attack",
    explanation=(
        "The same for each attack alone; for certificates the share of images that are certified, for "
        "stickers the share of signs that are misclassified in at most half of their views."
    ),
)
CLEAN = ShareTableSection(
    "clean",
    anchor="clean",
    title="Clean accuracy",
    what="",
    explanation="Images that are correctly classified without attack.",
)
CLASSES = ShareTableSection(
    "classes",
    anchor="classes",
    title="By class",
    what="class",
    explanation=(
        "The classes with images that changed sides, the largest loss first. Few images of a class show "
        "large differences only."
    ),
    max_rows=MAX_SHOWN_CLASSES,
)
