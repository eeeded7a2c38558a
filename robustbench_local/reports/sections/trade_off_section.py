"""Clean and robust accuracy of the models in one chart, and which model another one dominates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from robustbench_local.reports.analysis.accuracy_trade_off import (
    Dominance,
    TradeOff,
    TradeOffPoint,
    build_trade_offs,
)
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.formatting.text import (
    format_count,
    format_estimate,
    format_test,
    isolate_direction,
    join_in_sentence,
)
from robustbench_local.reports.sections.section import JsonDict, Section
from robustbench_local.store import RunStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class TradeOffSection(Section[tuple[TradeOff, ...]]):
    """One chart and table for each threat model with two models or more."""

    anchor = "trade-off"
    title = "Clean and robust accuracy"
    link_text = "Clean and robust"
    template = "trade_off.html.j2"
    has_marked_names = True
    explanation = (
        "Each model once: clean accuracy and robust accuracy in the worst case over attacks, of the same "
        "images. The front joins the models that no other one exceeds, as observed. A model is called "
        "dominated only if another one is significantly higher in one accuracy, by a paired test on the "
        "images of both, and not lower in the other; a model whose robust accuracy may be too high dominates "
        "none."
    )

    def build_content(self, evidence: Evidence, store: RunStore) -> tuple[TradeOff, ...]:
        """Build the trade-off of each threat model."""
        return build_trade_offs(evidence)

    def to_markdown(self, content: tuple[TradeOff, ...], evidence: Evidence) -> Iterable[str]:
        """Render one table for each threat model."""
        yield from ("## Clean and robust accuracy", "", self.explanation, "")
        for trade_off in content:
            yield from (f"Under {escape_markdown(str(trade_off.threat))}:", "")
            yield from render_table(
                ["no.", "model", "clean accuracy", "robust accuracy", "standing"],
                (
                    [
                        f"{point.number}",
                        escape_markdown(str(point.subject)),
                        format_estimate(point.clean_accuracy),
                        format_estimate(point.robust_accuracy),
                        escape_markdown(describe_standing(point)),
                    ]
                    for point in trade_off.points
                ),
            )
            yield from ("", escape_markdown(describe_basis(trade_off)), "")

    def to_json(self, evidence: Evidence) -> JsonDict:
        """Encode ``trade_offs``: the points of each threat model."""
        return {"trade_offs": [_encode_trade_off(trade_off) for trade_off in build_trade_offs(evidence)]}

    def draw_figures(
        self, content: tuple[TradeOff, ...], names: Mapping[EvaluatedModel, str]
    ) -> Iterator[tuple[str, Figure]]:
        """Draw the figure of the threat model of the report's answer."""
        from robustbench_local.reports.figures.trade_off_figure import draw_trade_off

        for trade_off in content:
            if trade_off.is_headline:
                yield "trade-off.png", draw_trade_off(trade_off, names)

    def describe_standing(self, point: TradeOffPoint) -> str:
        """Describe where a point stands, for the template."""
        return describe_standing(point)

    def describe_basis(self, trade_off: TradeOff) -> str:
        """Describe what the tests are over and what the chart lacks, for the template."""
        return describe_basis(trade_off)


TRADE_OFF = TradeOffSection()


def describe_standing(point: TradeOffPoint) -> str:
    """Describe where a model stands among the others, in a few words."""
    if point.dominance:
        return "; ".join(filter(None, [_describe_dominance(point.dominance), point.caveat]))
    if point.caveat:
        return f"{point.caveat}: its robust accuracy may be too high"
    return "on the front" if point.is_on_front else "below the front, not significantly"


def describe_basis(trade_off: TradeOff) -> str:
    """Describe the paired tests, numbers of images that differ, and the models without a point."""
    fewest, most = trade_off.tested_image_counts
    images = format_count(most, "image") if fewest == most else f"{fewest:,} to {format_count(most, 'image')}"
    tests = format_count(len(trade_off.tests), "test")
    basis = f"over the {images} that all attacks of both models have"
    notes = [f"Paired tests: {basis}, adjusted for {tests} (Holm)."]
    if not any(test.has_enough_images() for test in trade_off.tests):
        notes.append("So few images cannot show any difference.")
    if len(trade_off.image_counts) > 1:
        counts = join_in_sentence([f"{count:,}" for count in trade_off.image_counts])
        notes.append(f"The models have different numbers of images: {counts}.")
    if trade_off.left_out:
        names = join_in_sentence([isolate_direction(str(subject)) for subject in trade_off.left_out])
        notes.append(f"Without a number, and so without a point: {names}.")
    return " ".join(notes)


def _describe_dominance(dominance: Dominance) -> str:
    other = isolate_direction(str(dominance.subject))
    parts = [f"{name} ({format_test(test)})" for name, test in dominance.differences]
    rest = "" if len(parts) > 1 else ", and not lower in the other"
    return f"dominated by {other}: significantly higher {join_in_sentence(parts)}{rest}"


def _encode_trade_off(trade_off: TradeOff) -> JsonDict:
    return {
        "threat": trade_off.threat.name,
        "tests": len(trade_off.tests),
        "points": [_encode_point(point) for point in trade_off.points],
        "left_out": [{"model": subject.model, "defense": subject.defense} for subject in trade_off.left_out],
    }


def _encode_point(point: TradeOffPoint) -> dict[str, Any]:
    dominance = point.dominance
    return {
        "model": point.subject.model,
        "defense": point.subject.defense,
        "clean_accuracy": point.clean_accuracy.to_json(),
        "robust_accuracy": point.robust_accuracy.to_json(),
        "on_front": point.is_on_front,
        "dominated_by": dominance
        and {
            "model": dominance.subject.model,
            "defense": dominance.subject.defense,
            "higher": [name.replace(" ", "_") for name, _ in dominance.differences],
            "adjusted_p_values": [test.adjusted_p_value for _, test in dominance.differences],
        },
        "caveat": point.caveat,
    }
