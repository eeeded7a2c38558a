"""Success of adversarial examples that are submitted again, against models with random answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.resubmission import (
    TABLE_TRIES,
    ResubmissionCurve,
    build_resubmission_curves,
)
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.formatting.text import format_count, format_estimate, format_interval
from robustbench_local.reports.sections.section import JsonDict, Section
from robustbench_local.resubmission_statistics import ResubmissionPoint
from robustbench_local.store import RunStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ResubmissionSection(Section[tuple[ResubmissionCurve, ...]]):
    """A curve over the number of submissions; shown if a model's answers are random."""

    anchor = "resubmission"
    title = "Success of repeated submissions"
    link_text = "Repeated submissions"
    template = "resubmission.html.j2"
    is_folded = True
    explanation = (
        "These models answer at random, so that an attacker who fails can submit the same adversarial "
        "example again. The figures are the share of correctly classified images on which at least one of N "
        "submissions succeeds. They follow from independent answers to the stored example of each image, and "
        "the attack did not search for examples that succeed only now and then: read them as lower limits. "
        'Beyond the number of answers only bounds are known, marked "between". With the draw fixed, attacker '
        "and harness see the same random numbers in every answer: this is the robustness that does not come "
        "from chance."
    )

    def build_content(self, evidence: Evidence, store: RunStore) -> tuple[ResubmissionCurve, ...]:
        """Build one curve for each attack."""
        return build_resubmission_curves(evidence)

    def to_markdown(self, content: tuple[ResubmissionCurve, ...], evidence: Evidence) -> Iterable[str]:
        """Render one table."""
        yield from (f"## {self.title}", "", self.explanation, "")
        head = ["model", "attack", *(f"N = {tries:,}" for tries in TABLE_TRIES)]
        rows = [
            [
                escape_markdown(str(curve.subject)),
                escape_markdown(curve.cell.label),
                *(format_point(point) for point in curve.table_points),
                format_estimate(curve.cell.robust_accuracy),
                format_fixed_draw(curve),
            ]
            for curve in content
        ]
        yield from render_table([*head, "robust accuracy", "with the draw fixed"], rows)
        yield from ("", *map(escape_markdown, self.describe_draws(content)), "")

    @staticmethod
    def describe_draws(content: Iterable[ResubmissionCurve]) -> Iterator[str]:
        """Describe the number of answers and the images that are left out, a line for each curve."""
        for curve in content:
            left_out = (
                f" {format_count(curve.unknown_count, 'image')} left out: the model raised an error."
                if curve.unknown_count
                else ""
            )
            yield f"{curve.cell.label} on {curve.subject}: {curve.draws} answers an image.{left_out}"

    def to_json(self, evidence: Evidence) -> JsonDict:
        """Encode ``resubmission``."""
        return {"resubmission": [_encode_curve(curve) for curve in build_resubmission_curves(evidence)]}

    def draw_figures(
        self, content: tuple[ResubmissionCurve, ...], names: Mapping[EvaluatedModel, str]
    ) -> Iterator[tuple[str, Figure]]:
        """Draw one panel for each attack."""
        from robustbench_local.reports.figures.resubmission_figure import draw_resubmission

        yield "resubmission.png", draw_resubmission(content, names)


RESUBMISSION = ResubmissionSection()


def format_point(point: ResubmissionPoint) -> str:
    """Format the share with its interval; a bound as the interval alone."""
    if point.is_bound:
        return f"between {format_interval(point.success)} (n = {point.success.n:,})"
    return format_estimate(point.success)


def format_fixed_draw(curve: ResubmissionCurve) -> str:
    """Format robust accuracy with the draw fixed, or that there is none."""
    known = curve.fixed_draw_accuracy
    return format_estimate(known) if known.is_known else "not fixed"


def _encode_curve(curve: ResubmissionCurve) -> JsonDict:
    record = curve.cell.record
    return {
        "model": record.model,
        "defense": record.defense,
        "attack": record.attack,
        "threat": record.threat,
        "goal": record.goal,
        "draws": curve.draws,
        "unknown": curve.unknown_count,
        "robust_accuracy": curve.cell.robust_accuracy.to_json(),
        "fixed_draw_accuracy": curve.fixed_draw_accuracy.to_json("the draw was not fixed"),
        "curve": [
            {"tries": point.tries, "is_bound": point.is_bound, **point.success.to_json()}
            for point in curve.points
        ],
    }
