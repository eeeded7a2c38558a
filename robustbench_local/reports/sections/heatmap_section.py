"""Robust accuracy by model and attack."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.heatmap import HeatMap, build_heatmap
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.formatting.text import (
    format_estimate,
)
from robustbench_local.reports.sections.parts import (
    format_entry,
)
from robustbench_local.reports.sections.section import Section
from robustbench_local.store import RunStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class HeatmapSection(Section[HeatMap]):
    """Robust accuracy of each model under each attack, and in the worst case."""

    anchor = "attacks"
    title = "Robust accuracy by model and attack"
    link_text = "Models and attacks"
    template = "heatmap.html.j2"

    def build_content(self, evidence: Evidence, store: RunStore) -> HeatMap:
        """Build the table of models by attacks."""
        return build_heatmap(evidence)

    def is_shown(self, content: HeatMap) -> bool:
        """Return whether the run has an attack."""
        return bool(content.columns)

    def to_markdown(self, content: HeatMap, evidence: Evidence) -> Iterable[str]:
        """Render one table."""
        return _render_heatmap(content)

    def draw_figures(
        self, content: HeatMap, names: Mapping[EvaluatedModel, str]
    ) -> Iterator[tuple[str, Figure]]:
        """Draw one figure for the run."""
        from robustbench_local.reports.figures.heatmap_figure import draw_heatmap

        yield "robust-accuracy.png", draw_heatmap(content, names)


HEATMAP = HeatmapSection()


def _render_heatmap(heatmap: HeatMap) -> list[str]:
    head = [
        "model",
        "clean",
        *(escape_markdown(f"{column.threat}: {column.label}") for column in heatmap.columns),
    ]
    rows = (
        [
            escape_markdown(str(row.subject)),
            format_estimate(row.clean_accuracy),
            *(format_entry(entry) for entry in row.entries),
        ]
        for row in heatmap.rows
    )
    text = (
        "Share of all images that are classified correctly and remain so under attack, with the 95% "
        "Clopper-Pearson interval."
    )
    if heatmap.has_other_images:
        text += (
            ' An attack with a limit ran on fewer images than the column "clean"; its entry then '
            "also states the clean accuracy on those images."
        )
    return ["## Robust accuracy", "", text, "", *render_table(head, rows), ""]
