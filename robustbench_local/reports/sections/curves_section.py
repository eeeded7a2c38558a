"""Robust accuracy by perturbation budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.robustness_curves import CurvePanel, build_curve_panels
from robustbench_local.reports.sections.section import Section
from robustbench_local.store import RunStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class CurvesSection(Section[tuple[CurvePanel, ...]]):
    """Curves over eps; the tables of other sections give their numbers."""

    anchor = "radius"
    title = "Robust accuracy by perturbation budget"
    link_text = "Perturbation budget"
    template = "curves.html.j2"
    has_marked_names = True

    def build_content(self, evidence: Evidence, store: RunStore) -> tuple[CurvePanel, ...]:
        """Build one panel per norm and attack with several radii."""
        return build_curve_panels(evidence)

    def draw_figures(
        self, content: tuple[CurvePanel, ...], names: Mapping[EvaluatedModel, str]
    ) -> Iterator[tuple[str, Figure]]:
        """Draw one figure per norm."""
        from robustbench_local.reports.figures.curves_figure import draw_curves

        for norm in dict.fromkeys(panel.norm for panel in content):
            panels = [panel for panel in content if panel.norm == norm]
            yield f"over-radius-{norm.lower()}.png", draw_curves(panels, names)


CURVES = CurvesSection()
