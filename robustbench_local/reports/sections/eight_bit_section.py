"""The worst case over 8-bit adversarial images."""

from __future__ import annotations

from collections.abc import Iterable

from robustbench_local.reports.analysis.eight_bit_worst_case import (
    EIGHT_BIT_EXPLANATION,
    EightBitCase,
    find_eight_bit_cases,
)
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.formatting.text import (
    format_estimate,
    format_percent,
)
from robustbench_local.reports.sections.parts import format_marked_model
from robustbench_local.reports.sections.section import Section
from robustbench_local.store import RunStore


class EightBitSection(Section[tuple[EightBitCase, ...]]):
    """A table of report.md; the page and results.json give it beside the worst case in floating point."""

    anchor = "eight-bit"
    explanation = EIGHT_BIT_EXPLANATION

    def build_content(self, evidence: Evidence, store: RunStore) -> tuple[EightBitCase, ...]:
        """Select the cases with known results."""
        return tuple(case for case in find_eight_bit_cases(evidence) if case.robust_accuracy.is_known)

    def to_markdown(self, content: tuple[EightBitCase, ...], evidence: Evidence) -> Iterable[str]:
        """Render one table."""
        head = [
            "model",
            "threat model",
            "robust in 8 bits",
            "attack success in 8 bits",
            "in floating point",
            "excluded",
        ]
        rows = (
            [
                format_marked_model(evidence, case.subject, case.threat),
                escape_markdown(str(case.threat)),
                format_estimate(case.robust_accuracy),
                format_estimate(case.attack_success),
                format_percent(case.float_success.value),
                f"{case.undecided_count:,}",
            ]
            for case in content
        )
        return ["## Worst case in 8 bits", "", self.explanation, "", *render_table(head, rows), ""]


EIGHT_BIT = EightBitSection()
