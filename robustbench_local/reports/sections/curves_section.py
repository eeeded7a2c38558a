"""Robust accuracy by perturbation budget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from robustbench_local.reports.analysis.certified_accuracy import build_certified_groups
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.robustness_curves import CurvePanel, build_curve_panels
from robustbench_local.reports.sections.parts import encode_curves, render_curves
from robustbench_local.reports.sections.section import JsonDict, Section
from robustbench_local.store import RunStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class CurvesSection(Section[tuple[CurvePanel, ...]]):
    """Curves over eps, with their numbers in tables."""

    anchor = "radius"
    title = "Robust accuracy by perturbation budget"
    link_text = "Perturbation budget"
    template = "curves.html.j2"
    has_marked_names = True

    def build_content(self, evidence: Evidence, store: RunStore) -> tuple[CurvePanel, ...]:
        """Build one panel per norm and attack with several radii."""
        return build_curve_panels(evidence)

    def to_markdown(self, content: tuple[CurvePanel, ...], evidence: Evidence) -> Iterable[str]:
        """Render one table for each norm and attack."""
        return ["## Robust accuracy by perturbation budget", "", *render_curves(content)]

    def to_json(self, evidence: Evidence) -> JsonDict:
        """Encode ``curves``: robust and certified accuracy over the radius."""
        certified = [panel for group in build_certified_groups(evidence) for panel in group.panels]
        return {"curves": encode_curves([*build_curve_panels(evidence), *certified])}

    def draw_figures(
        self, content: tuple[CurvePanel, ...], names: Mapping[EvaluatedModel, str]
    ) -> Iterator[tuple[str, Figure]]:
        """Draw one figure per norm."""
        from robustbench_local.reports.figures.curves_figure import draw_curves

        for norm in dict.fromkeys(panel.norm for panel in content):
            panels = [panel for panel in content if panel.norm == norm]
            yield f"over-radius-{norm.lower()}.png", draw_curves(panels, names)


CURVES = CurvesSection()
