"""Parts of several sections: table entries and severities, as Markdown and for results.json."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.heatmap import HeatMapEntry
from robustbench_local.reports.analysis.misclassification_severity import SeveritySummary
from robustbench_local.reports.analysis.robustness_curves import CurvePanel
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.reports.analysis.trust import mark_model
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.formatting.text import (
    MISSING_TEXT,
    format_estimate,
    format_interval,
    format_norm,
    format_percent,
    format_radius,
)
from robustbench_local.statistics import Estimate


def format_entry(entry: HeatMapEntry) -> str:
    """Format a table entry as Markdown: the share, or its status where there is none."""
    if not entry.estimate.is_known:
        return entry.status_text
    clean = f"; clean {format_percent(entry.own_clean_accuracy.value)}" if entry.own_clean_accuracy else ""
    mark = f", {entry.mark}" if entry.mark else ""
    return f"{format_estimate(entry.estimate)}{' (incomplete)' if entry.reason else ''}{clean}{mark}"


def format_marked_model(evidence: Evidence, subject: EvaluatedModel, threat: Threat | None = None) -> str:
    """Format a model's name as Markdown, with the mark of its numbers under a threat model, or any."""
    mark = mark_model(evidence, subject, threat)
    return f"{escape_markdown(str(subject))}{f', {mark}' if mark else ''}"


def encode_entry(entry: HeatMapEntry) -> dict[str, Any]:
    """Encode a table entry for results.json."""
    return entry.estimate.to_json(entry.reason or entry.status_text)


def format_severity(evidence: Evidence, severity: SeveritySummary | None, model: str) -> str:
    """Format the expected severity and the worst single prediction."""
    if severity is None:
        return MISSING_TEXT
    mean = severity.expected
    worst = f"worst {severity.worst_severity:.2f}"
    if severity.worst_severity:
        name = evidence.get_class_name(model, severity.worst_class)
        worst += f": {escape_markdown(name)} ({severity.worst_count})"
    return f"{mean.value:.2f} ({mean.low:.2f}-{mean.high:.2f}), {worst}"


def render_curves(panels: Sequence[CurvePanel]) -> Iterator[str]:
    """Render the numbers of curves as Markdown, one table for each panel."""
    for panel in panels:
        yield from (f"{escape_markdown(f'{format_norm(panel.norm)}, {panel.title}')}: {panel.value_name}", "")
        heads = [escape_markdown(f"{curve}, n = {curve.n:,}") for curve in panel.curves]
        yield from render_table(
            ["radius", *heads],
            (
                [format_radius(eps), *(format_share(estimate) for estimate in estimates)]
                for eps, estimates in panel.rows
            ),
        )
        yield ""


def format_share(estimate: Estimate | None) -> str:
    """Format a share with its interval, for a table whose columns state n; a dash if there is none."""
    return (
        MISSING_TEXT
        if estimate is None
        else f"{format_percent(estimate.value)} ({format_interval(estimate)})"
    )


def encode_curves(panels: Sequence[CurvePanel]) -> list[dict[str, Any]]:
    """Encode the curves of panels for results.json."""
    return [
        {
            "model": curve.subject.model,
            "defense": curve.subject.defense,
            "norm": panel.norm,
            "attack": panel.attack,
            "quantity": "robust accuracy" if curve.value_name == "under attack" else panel.value_name,
            "n": curve.n,
            "points": [
                {"radius": eps, "value": share.value, "low": share.low, "high": share.high}
                for eps, share in curve.marked_points
            ],
        }
        for panel in panels
        for curve in panel.curves
    ]


def encode_severity(severity: SeveritySummary) -> dict[str, Any]:
    """Encode the expected severity and the worst single prediction for results.json."""
    return {
        "expected": severity.expected.to_json(),
        "worst": severity.worst_severity,
        "worst_class": severity.worst_class,
        "worst_count": severity.worst_count,
    }
