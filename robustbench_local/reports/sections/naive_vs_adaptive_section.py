"""Defenses under non-adaptive and adaptive attacks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.naive_vs_adaptive import (
    NAIVE_VS_ADAPTIVE_EXPLANATION,
    NaiveVsAdaptive,
    build_naive_vs_adaptive,
)
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.sections.parts import (
    encode_entry,
    format_entry,
)
from robustbench_local.reports.sections.section import JsonDict, Section
from robustbench_local.store import RunStore


class NaiveVsAdaptiveSection(Section[tuple[NaiveVsAdaptive, ...]]):
    """Each defense under a non-adaptive attack and under an adaptive one."""

    anchor = "defenses"
    title = "Non-adaptive and adaptive attacks"
    link_text = "Adaptive attacks"
    template = "naive_vs_adaptive.html.j2"
    is_folded = True
    explanation = NAIVE_VS_ADAPTIVE_EXPLANATION

    def build_content(self, evidence: Evidence, store: RunStore) -> tuple[NaiveVsAdaptive, ...]:
        """Build one comparison per non-adaptive cell."""
        return build_naive_vs_adaptive(evidence)

    def to_markdown(self, content: tuple[NaiveVsAdaptive, ...], evidence: Evidence) -> Iterable[str]:
        """Render one table, and a sentence per row."""
        return _render_naive_vs_adaptive(content)

    def to_json(self, evidence: Evidence) -> JsonDict:
        """Encode ``naive_vs_adaptive``."""
        return {
            "naive_vs_adaptive": [_encode_naive_vs_adaptive(row) for row in build_naive_vs_adaptive(evidence)]
        }


NAIVE_VS_ADAPTIVE = NaiveVsAdaptiveSection()


def _render_naive_vs_adaptive(comparisons: Sequence[NaiveVsAdaptive]) -> list[str]:
    head = ["model", "attack", "without defense", "non-adaptive attack", "adaptive attack"]
    rows = (
        [
            escape_markdown(str(comparison.subject)),
            escape_markdown(comparison.label),
            *(
                format_entry(entry)
                for entry in (comparison.undefended, comparison.naive, comparison.adaptive)
            ),
        ]
        for comparison in comparisons
    )
    sentences = [f"- {escape_markdown(comparison.sentence)}" for comparison in comparisons]
    title = "## Non-adaptive and adaptive attacks"
    return [title, "", NAIVE_VS_ADAPTIVE_EXPLANATION, "", *render_table(head, rows), "", *sentences, ""]


def _encode_naive_vs_adaptive(comparison: NaiveVsAdaptive) -> JsonDict:
    test = comparison.comparison
    return {
        "model": comparison.subject.model,
        "defense": comparison.subject.defense,
        "attack": comparison.attack,
        "threat": comparison.threat.name,
        "undefended": encode_entry(comparison.undefended),
        "naive": encode_entry(comparison.naive),
        "adaptive": encode_entry(comparison.adaptive),
        "n": test.n if test else None,
        "only_naive": test.only_first if test else None,
        "only_adaptive": test.only_second if test else None,
        "p_value": test.p_value if test else None,
        "sentence": comparison.sentence,
    }
