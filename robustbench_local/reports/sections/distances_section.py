"""Distances to the nearest adversarial images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from robustbench_local.reports.analysis.distances import (
    CURVE_STEPS,
    AttackDistances,
    DistanceGroup,
    build_distance_groups,
)
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.formatting.text import (
    format_distance,
)
from robustbench_local.reports.sections.parts import format_marked_model
from robustbench_local.reports.sections.section import Section
from robustbench_local.store import RunStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class DistancesSection(Section[tuple[DistanceGroup, ...]]):
    """Minimum-norm attacks; results.json has them among the cells."""

    anchor = "far"
    title = "Distance to the nearest adversarial example"
    link_text = "Distances"
    template = "distances.html.j2"
    is_folded = True
    has_marked_names = True
    curve_steps = CURVE_STEPS

    def build_content(self, evidence: Evidence, store: RunStore) -> tuple[DistanceGroup, ...]:
        """Group the attacks by threat model."""
        return build_distance_groups(evidence)

    def to_markdown(self, content: tuple[DistanceGroup, ...], evidence: Evidence) -> Iterable[str]:
        """Render a heading and a table per threat model."""
        return [line for group in content for line in _render_distances(evidence, group)]

    def draw_figures(
        self, content: tuple[DistanceGroup, ...], names: Mapping[EvaluatedModel, str]
    ) -> Iterator[tuple[str, Figure]]:
        """Draw one figure per threat model with curves."""
        from robustbench_local.reports.figures.curves_figure import draw_curves

        for number, group in enumerate(content, start=1):
            if group.panels:
                yield f"how-far-{number}.png", draw_curves(group.panels, names)


DISTANCES = DistancesSection()


def _render_distances(evidence: Evidence, group: DistanceGroup) -> list[str]:
    head = [
        "model",
        "attack",
        "n",
        "lower quartile",
        "median",
        "its 95% interval",
        "upper quartile",
        "robust",
    ]
    rows = (_format_distance_row(evidence, distances, group.threat) for distances in group.attack_distances)
    text = (
        "Quartiles of the distance to the nearest adversarial example, over the correctly classified "
        "images. An "
        "image without one counts as farther than the largest radius."
    )
    goal = ", targeted" if group.targeted else ""
    table = [*render_table(head, rows), ""] if group.attack_distances else []
    problems = [f"- No distances: {escape_markdown(problem)}" for problem in group.problems]
    return [
        f"## Distances: {escape_markdown(str(group.threat))}{goal}",
        "",
        text,
        "",
        *table,
        *problems,
        *([""] if problems else []),
    ]


def _format_distance_row(evidence: Evidence, distances: AttackDistances, threat: Threat) -> list[str]:
    quartiles = distances.quartiles
    ends = (quartiles.lower, quartiles.median, quartiles.low, quartiles.high, quartiles.upper)
    lower, median, low, high, upper = (
        format_distance(threat.norm, end, max_radius=threat.eps) for end in ends
    )
    names = [format_marked_model(evidence, distances.subject, threat), escape_markdown(distances.label)]
    return [
        *names,
        f"{quartiles.n:,}",
        lower,
        median,
        f"{low} to {high}",
        upper,
        f"{distances.unbroken_count:,}",
    ]
