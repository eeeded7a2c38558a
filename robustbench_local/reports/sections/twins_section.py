"""Shipped models beside their float twins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from robustbench_local.counted_nouns import format_count
from robustbench_local.paired_difference import PairedDifference
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.twin_results import OutputDifference, TwinResult, build_twin_results
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.formatting.text import MISSING_TEXT, format_estimate, format_points
from robustbench_local.reports.sections.section import JsonDict, Section
from robustbench_local.store import RunStore

MAX_NAMED_IMAGES = 5
"""Images that are named where only one of the two is misclassified."""


class TwinsSection(Section[tuple[TwinResult, ...]]):
    """Two tables and the images that only one loses; shown if a model has a twin."""

    anchor = "twins"
    title = "Artefact and twin"
    link_text = "Twin"
    template = "twins.html.j2"
    is_folded = True
    explanation = (
        "Attacks search with the gradients of the float twin, and go on until the artefact, the model that "
        "is shipped, misclassifies; then they query the artefact alone. Gates and all other figures are "
        "about the artefact. The twin is attacked by itself for comparison, on the same images. The gap is "
        "the robust accuracy of the artefact less that of the twin."
    )

    def build_content(self, evidence: Evidence, store: RunStore) -> tuple[TwinResult, ...]:
        """Build one row for each attack."""
        return build_twin_results(evidence)

    def to_markdown(self, content: tuple[TwinResult, ...], evidence: Evidence) -> Iterable[str]:
        """Render the tables."""
        yield from (f"## {self.title}", "", self.explanation, "")
        head = ["model", "attack", "twin", "twin robust", "artefact robust", "gap", "found by"]
        rows = [
            [
                *_name_row(result),
                escape_markdown(result.cell.twin_label or ""),
                format_estimate(result.twin_robust),
                format_estimate(result.model_robust),
                self.format_gap(result),
                self.format_phases(result),
            ]
            for result in content
        ]
        yield from (*render_table(head, rows), "")
        head = ["model", "attack", "same label, clean", "same label, attacked", "outputs differ by"]
        rows = [
            [
                *_name_row(result),
                format_estimate(result.same_clean_labels),
                format_estimate(result.same_adversarial_labels),
                format_differences(result),
            ]
            for result in content
        ]
        yield from (*render_table(head, rows), "")
        for result in content:
            yield f"- {escape_markdown(format_lost_images(result))}"
        yield ""

    def format_gap(self, result: TwinResult) -> str:
        """See the function of this name."""
        return format_gap(result.gap)

    def format_phases(self, result: TwinResult) -> str:
        """See the function of this name."""
        return format_phases(result) or MISSING_TEXT

    def format_differences(self, result: TwinResult) -> str:
        """See the function of this name."""
        return format_differences(result)

    def format_lost_images(self, result: TwinResult) -> str:
        """See the function of this name."""
        return format_lost_images(result)

    def to_json(self, evidence: Evidence) -> JsonDict:
        """Encode ``twins``."""
        return {"twins": [_encode_result(result) for result in build_twin_results(evidence)]}


TWINS = TwinsSection()


def format_gap(gap: PairedDifference) -> str:
    """Format the gap with its interval, in points."""
    if not gap.is_known:
        return MISSING_TEXT
    interval = f"{format_points(gap.low)} to {format_points(gap.high)}"
    return f"{format_points(gap.value)} ({interval}; n = {gap.n:,})"


def format_phases(result: TwinResult) -> str:
    """Format how many successes each phase of the search found; empty without any."""
    names = {
        "transfer": "the twin's own candidates",
        "search": "gradients of the twin",
        "finish": "queries of the artefact",
    }
    return ", ".join(
        f"{result.phases[key]:,} by {name}" for key, name in names.items() if key in result.phases
    )


def format_differences(result: TwinResult) -> str:
    """Format how far the outputs are apart, clean and attacked."""
    parts = [
        f"{name}: median {difference.median:.3g}, largest {difference.largest:.3g}"
        for name, difference in (
            ("clean", result.clean_difference),
            ("attacked", result.adversarial_difference),
        )
        if difference is not None
    ]
    return f"{'; '.join(parts)} ({result.outputs})" if parts else MISSING_TEXT


def format_lost_images(result: TwinResult) -> str:
    """Format which images only one of the two loses."""
    where = f"{result.cell.subject}, {result.cell.label}"
    model, twin = _name_images(result.only_model_lost), _name_images(result.only_twin_lost)
    return f"{where}: only the artefact loses {model}; only the twin loses {twin}."


def _name_images(images: tuple[str, ...]) -> str:
    """Format ``3 images (a, b, c)``."""
    shown = ", ".join(images[:MAX_NAMED_IMAGES])
    more = f" and {len(images) - MAX_NAMED_IMAGES:,} more" if len(images) > MAX_NAMED_IMAGES else ""
    return f"{format_count(len(images), 'image')} ({shown}{more})" if images else "no image"


def _name_row(result: TwinResult) -> list[str]:
    return [escape_markdown(str(result.cell.subject)), escape_markdown(result.cell.label)]


def _encode_difference(difference: OutputDifference | None) -> JsonDict | None:
    return None if difference is None else asdict(difference)


def _encode_result(result: TwinResult) -> JsonDict:
    record = result.cell.record
    return {
        "model": record.model,
        "defense": record.defense,
        "twin": record.twin,
        "attack": record.attack,
        "threat": record.threat,
        "goal": record.goal,
        "clean_accuracy": result.model_clean.to_json(),
        "twin_clean_accuracy": result.twin_clean.to_json(),
        "robust_accuracy": result.model_robust.to_json(),
        "twin_robust_accuracy": result.twin_robust.to_json(),
        "gap": {"value": result.gap.value, "low": result.gap.low, "high": result.gap.high, "n": result.gap.n},
        "p_value": result.gap.p_value,
        "only_model_lost": list(result.only_model_lost),
        "only_twin_lost": list(result.only_twin_lost),
        "same_clean_labels": result.same_clean_labels.to_json(),
        "same_adversarial_labels": result.same_adversarial_labels.to_json(),
        "outputs": result.outputs,
        "clean_difference": _encode_difference(result.clean_difference),
        "adversarial_difference": _encode_difference(result.adversarial_difference),
        "phases": dict(result.phases),
        "twin_forward_passes": result.twin_passes[0],
        "twin_backward_passes": result.twin_passes[1],
    }
