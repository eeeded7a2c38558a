"""What the runs cost: passes through the models, and time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from robustbench_local.reports.analysis.compared_cost import Cost, CostChange
from robustbench_local.reports.analysis.run_comparison import RunComparison
from robustbench_local.reports.formatting.text import MISSING_TEXT, format_count, format_duration
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


class CostSection(ComparisonSection):
    """Passes and time over the cells that both runs have."""

    anchor = "cost"
    title = "Cost"
    template = "cost.html.j2"
    explanation = (
        "Forward and backward passes of the attacks and certificates that both runs have. Attacks stop at "
        "their first success, so a less robust model is cheaper. Times depend on the machine and its load."
    )

    def is_shown(self, data: ComparisonData) -> bool:
        """Return whether any cell was run."""
        return any(cost.first.images or cost.second.images for _, cost in list_costs(data))

    def build_tables(self, data: ComparisonData) -> Iterator[TextTable]:
        """Build one table over all runs."""
        yield TextTable(
            head=[*list_name_headings(data), *list_run_headings(data), "passes as a multiple"],
            rows=[
                [
                    *list_names(data, comparison, cost.subjects),
                    describe_cost(cost.first),
                    describe_cost(cost.second),
                    format_multiple(cost),
                ]
                for comparison, cost in list_costs(data)
            ],
        )

    def to_json(self, comparison: RunComparison) -> JsonDict:
        """Encode ``cost``."""
        return {
            "cost": [
                {
                    **encode_subjects(cost.subjects),
                    "baseline": asdict(cost.first),
                    "candidate": asdict(cost.second),
                    "passes_ratio": cost.passes_ratio,
                }
                for cost in comparison.costs
            ]
        }


COST = CostSection()


def list_costs(data: ComparisonData) -> list[tuple[RunComparison, CostChange]]:
    """List the costs of all models with their comparison."""
    return [(comparison, cost) for comparison in data.comparisons for cost in comparison.costs]


def describe_cost(cost: Cost) -> str:
    """Describe passes, verdicts and time."""
    verdicts = format_count(cost.images, "verdict")
    return f"{format_count(cost.passes, 'pass')}, {verdicts}, {format_duration(cost.seconds)}"


def format_multiple(cost: CostChange) -> str:
    """Format the passes of the second run as a multiple of those of the first."""
    return MISSING_TEXT if cost.passes_ratio is None else f"{cost.passes_ratio:.2f} \N{MULTIPLICATION SIGN}"
