"""Worst cases of a run that stopped before its last image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.stop_targets import (
    StoppedEstimate,
    count_given_images,
    list_stopped_estimates,
    widen_interval,
)
from robustbench_local.reports.analysis.trust import mark_model
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.formatting.text import format_count, format_estimate, format_interval
from robustbench_local.reports.sections.section import JsonDict, Section
from robustbench_local.statistics import Estimate
from robustbench_local.store import RunStore


class StoppedSection(Section[tuple[StoppedEstimate, ...]]):
    """Robust accuracy in the worst case from the images that a run needed."""

    anchor = "stopped"
    title = "Stopped early"
    link_text = "Stopped early"
    template = "stopped.html.j2"
    is_folded = True
    explanation = (
        "The run stopped once the images left could not change an answer. The images came in random order, "
        "and cheap attacks went first: an image that one of them misclassified was not given to the others. "
        "An attack that saw only what others left has no rate of its own; the shares are multiplied. The "
        "intervals hold at whatever moment the run stops. Those among all images of the data have a level of "
        "97.5%, each model for itself; those about further images of this kind, 95%."
    )

    def build_content(self, evidence: Evidence, store: RunStore) -> tuple[StoppedEstimate, ...]:
        """Build the estimates; empty for a run over all images."""
        return tuple(list_stopped_estimates(evidence))

    def to_markdown(self, content: tuple[StoppedEstimate, ...], evidence: Evidence) -> Iterable[str]:
        """Render one table."""
        rows = [
            [
                escape_markdown(str(one.subject)),
                escape_markdown(str(one.threat)),
                format_estimate(one.share) + _format_mark(one, evidence),
                format_interval(widen_interval(one.state.interval)),
                escape_markdown(format_given(one)),
            ]
            for one in content
        ]
        head = ["model", "threat model", "among all images", "about further images", "images of each attack"]
        return [f"## {self.title}", "", self.explanation, "", *render_table(head, rows), ""]

    def widen_interval(self, one: StoppedEstimate) -> Estimate:
        """Return the interval about further images of this kind."""
        return widen_interval(one.state.interval)

    def format_given(self, one: StoppedEstimate) -> str:
        """Format how many images each attack was given."""
        return format_given(one)

    def to_json(self, evidence: Evidence) -> JsonDict:
        """Encode ``stop``: the rule of the run, and the worst cases that rest on part of the images."""
        if evidence.stop is None:
            return {"stop": None}
        rule = evidence.stop.rule
        return {
            "stop": {
                "decided": rule.decided,
                "precision": rule.precision,
                "images": len(evidence.stop.order),
                "worst_case": [_encode_estimate(one, evidence) for one in list_stopped_estimates(evidence)],
            }
        }


STOPPED = StoppedSection()


def format_given(one: StoppedEstimate) -> str:
    """Format how many images each attack was given: ``PGD-20 on 112 of 1,000 images, AutoAttack on 40``."""
    counts = [f"{label} on {count:,}" for label, count in count_given_images(one)]
    whole = format_count(one.state.interval.population, "image")
    return ", ".join([f"{counts[0]} of {whole}", *counts[1:]])


def _format_mark(one: StoppedEstimate, evidence: Evidence) -> str:
    mark = mark_model(evidence, one.subject, one.threat)
    return f", {mark}" if mark else ""


def _encode_estimate(one: StoppedEstimate, evidence: Evidence) -> JsonDict:
    mark = mark_model(evidence, one.subject, one.threat)
    given: Sequence[tuple[str, int]] = count_given_images(one)
    return {
        "model": one.subject.model,
        "defense": one.subject.defense,
        "threat": one.threat.name,
        "robust_accuracy": one.share.to_json(),
        "stated": one.stated.to_json(),
        "trustworthy": not mark,
        "mark": mark,
        "given": [{"attack": label, "images": count} for label, count in given],
    }
