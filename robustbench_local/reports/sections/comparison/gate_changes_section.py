"""The gates of the compared runs, those with another verdict first."""

from __future__ import annotations

from collections.abc import Iterator

from robustbench_local.reports.analysis.gate_changes import GateChange
from robustbench_local.reports.analysis.gate_types import GateVerdict
from robustbench_local.reports.analysis.run_comparison import RunComparison
from robustbench_local.reports.sections.comparison.comparison_data import ComparisonData
from robustbench_local.reports.sections.comparison.comparison_section import (
    ComparisonSection,
    TextTable,
    list_run_headings,
)
from robustbench_local.reports.sections.section import JsonDict


class GateChangesSection(ComparisonSection):
    """The verdict of each gate in each run."""

    anchor = "gates"
    title = "Gates"
    template = "gate_changes.html.j2"
    explanation = "Each run is judged by its own gates; those whose verdict changed come first."

    def is_shown(self, data: ComparisonData) -> bool:
        """Return whether any run has a gate."""
        return any(comparison.gates for comparison in data.comparisons)

    def build_tables(self, data: ComparisonData) -> Iterator[TextTable]:
        """Build one table over all runs."""
        run = ["run"] if data.has_several_runs else []
        yield TextTable(
            head=[*run, "model", "gate", *list_run_headings(data), "measured"],
            rows=[
                [
                    *([comparison.candidate.name] if run else []),
                    change.model_text,
                    change.limit_text,
                    change.first_ruling,
                    f"{change.second_ruling} (changed)" if change.is_changed else change.second_ruling,
                    describe_measured(change),
                ]
                for comparison in data.comparisons
                for change in comparison.gates
            ],
        )

    def to_json(self, comparison: RunComparison) -> JsonDict:
        """Encode ``gates``."""
        return {
            "gates": [
                {
                    "gate": change.limit_text,
                    "model": change.model_text,
                    "changed": change.is_changed,
                    "baseline": _encode_verdict(change.first),
                    "candidate": _encode_verdict(change.second),
                }
                for change in comparison.gates
            ]
        }


GATE_CHANGES = GateChangesSection()


def describe_measured(change: GateChange) -> str:
    """Describe what the verdict of the second run rests on, or of the first if that alone has the gate."""
    verdict = change.second or change.first
    return verdict.reason if verdict else ""


def _encode_verdict(verdict: GateVerdict | None) -> JsonDict | None:
    return None if verdict is None else {"verdict": verdict.ruling, "reason": verdict.reason}
