"""Certified accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from robustbench_local.reports.analysis.certified_accuracy import (
    CERTIFIED_EXPLANATION,
    CertifiedCell,
    CertifiedGroup,
    build_certified_groups,
)
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.formatting.text import (
    MISSING_TEXT,
    format_budget,
    format_estimate,
    format_percent,
)
from robustbench_local.reports.sections.parts import render_curves
from robustbench_local.reports.sections.section import Section
from robustbench_local.store import RunStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class CertifiedSection(Section[tuple[CertifiedGroup, ...]]):
    """Certificates by norm; results.json has them among the cells."""

    anchor = "certified"
    title = "Certified accuracy"
    link_text = "Certified"
    template = "certified.html.j2"
    explanation = CERTIFIED_EXPLANATION

    def build_content(self, evidence: Evidence, store: RunStore) -> tuple[CertifiedGroup, ...]:
        """Group the certificates by norm."""
        return build_certified_groups(evidence)

    def to_markdown(self, content: tuple[CertifiedGroup, ...], evidence: Evidence) -> Iterable[str]:
        """Render one table, and notes."""
        panels = [panel for group in content for panel in group.panels]
        return [*_render_certified(content), *render_curves(panels)]

    def draw_figures(
        self, content: tuple[CertifiedGroup, ...], names: Mapping[EvaluatedModel, str]
    ) -> Iterator[tuple[str, Figure]]:
        """Draw one figure per norm with curves."""
        from robustbench_local.reports.figures.curves_figure import draw_curves

        for group in content:
            if group.panels:
                yield f"certified-{group.norm.lower()}.png", draw_curves(group.panels, names)


CERTIFIED = CertifiedSection()


def _render_certified(groups: Sequence[CertifiedGroup]) -> list[str]:
    head = [
        "model",
        "certificate",
        "threat model",
        "certified accuracy",
        "clean accuracy",
        "abstained",
        "passes per image",
    ]
    head += ["classifier", "guarantee"]
    rows = (
        [escape_markdown(part) for part in _format_certificate_row(row)]
        for group in groups
        for row in group.rows
    )
    notes = [
        f"- {escape_markdown(note)}"
        for note in dict.fromkeys(note for group in groups for note in group.notes)
    ]
    return ["## Certified", "", CERTIFIED_EXPLANATION, "", *render_table(head, rows), "", *notes, ""]


def _format_certificate_row(row: CertifiedCell) -> list[str]:
    cell = row.cell
    return [
        str(cell.subject),
        cell.label,
        format_budget(cell.record.norm, cell.record.eps),
        format_estimate(cell.certified_accuracy) if cell.is_done else cell.reported_status,
        format_percent(cell.clean_accuracy.value),
        f"{cell.tally.abstained:,}",
        MISSING_TEXT if row.passes_per_image is None else f"{row.passes_per_image:,.0f}",
        row.certified_classifier,
        row.guarantee,
    ]
