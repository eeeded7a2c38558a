"""Defenses against attackers who do not know of them, and who do."""

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
    """What each defense does against a non-adaptive attack, and against an adaptive one."""

    anchor = "defenses"
    title = "Non-adaptive and adaptive attacks"
    link_text = "Adaptive attacks"
    template = "naive_vs_adaptive.html.j2"
    explanation = NAIVE_VS_ADAPTIVE_EXPLANATION

    def build(self, evidence: Evidence, store: RunStore) -> tuple[NaiveVsAdaptive, ...]:
        """One for each naive cell."""
        return build_naive_vs_adaptive(evidence)

    def to_markdown(self, content: tuple[NaiveVsAdaptive, ...], evidence: Evidence) -> Iterable[str]:
        """One table, and a sentence for each row."""
        return _render_naive_vs_adaptive(content)

    def to_json(self, evidence: Evidence) -> JsonDict:
        """``naive_vs_adaptive``."""
        return {
            "naive_vs_adaptive": [_encode_naive_vs_adaptive(row) for row in build_naive_vs_adaptive(evidence)]
        }


NAIVE_VS_ADAPTIVE = NaiveVsAdaptiveSection()


def _render_naive_vs_adaptive(lessons: Sequence[NaiveVsAdaptive]) -> list[str]:
    head = ["model", "attack", "without defense", "non-adaptive attack", "adaptive attack"]
    rows = (
        [
            escape_markdown(str(one.subject)),
            escape_markdown(one.label),
            *(format_entry(square) for square in (one.undefended, one.naive, one.adaptive)),
        ]
        for one in lessons
    )
    told = [f"- {escape_markdown(one.sentence)}" for one in lessons]
    title = "## Non-adaptive and adaptive attacks"
    return [title, "", NAIVE_VS_ADAPTIVE_EXPLANATION, "", *render_table(head, rows), "", *told, ""]


def _encode_naive_vs_adaptive(lesson: NaiveVsAdaptive) -> JsonDict:
    test = lesson.comparison
    return {
        "model": lesson.subject.model,
        "defense": lesson.subject.defense,
        "attack": lesson.attack,
        "threat": lesson.threat.name,
        "undefended": encode_entry(lesson.undefended),
        "naive": encode_entry(lesson.naive),
        "adaptive": encode_entry(lesson.adaptive),
        "n": test.n if test else None,
        "only_naive": test.only_first if test else None,
        "only_adaptive": test.only_second if test else None,
        "p_value": test.p_value if test else None,
        "sentence": lesson.sentence,
    }
