"""The page of a comparison: one HTML file without scripts or requests, in the style of the report."""

from __future__ import annotations

from importlib import resources

from markupsafe import Markup

from robustbench_local.reports.page import build_environment, hash_source, protect_intervals
from robustbench_local.reports.page.heading_anchors import add_heading_anchors, number_regions
from robustbench_local.reports.sections.comparison import COMPARISON_SECTIONS
from robustbench_local.reports.sections.comparison.changed_images_section import name_change
from robustbench_local.reports.sections.comparison.comparison_data import ComparisonData
from robustbench_local.reports.sections.comparison.comparison_section import (
    list_name_headings,
    list_names,
    list_run_headings,
)
from robustbench_local.reports.sections.comparison.cost_section import (
    describe_cost,
    format_multiple,
    list_costs,
)
from robustbench_local.reports.sections.comparison.gate_changes_section import describe_measured
from robustbench_local.reports.sections.comparison.share_table_section import (
    format_counts,
    format_images,
    format_p,
)
from robustbench_local.reports.summary import comparison_answer
from robustbench_local.reports.summary.comparison_verdict import decide_comparison

_VERDICT_CLASSES = {
    "worse": "fail",
    "better": "pass",
    "no difference shown": "same",
    "unknown": "inconclusive",
}
"""Verdict of a change -> its class in the style sheet."""


def render_comparison_page(data: ComparisonData) -> str:
    """Render the whole page; the same data gives the same bytes."""
    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    parts = [section for section in COMPARISON_SECTIONS if section.is_shown(data)]
    templates = dict.fromkeys((section.template, section.read_template()) for section in parts)
    environment = build_environment(tuple(templates))
    page = environment.get_template("comparison.html.j2").render(
        data=data,
        parts=parts,
        verdict=decide_comparison(data.comparisons),
        question=comparison_answer.describe_question(data.comparisons),
        answer=protect_intervals(comparison_answer.describe_comparison_answer(data.comparisons)),
        list_change_sentences=comparison_answer.list_change_sentences,
        list_cautions=comparison_answer.list_cautions,
        list_noted_differences=comparison_answer.list_noted_differences,
        list_name_headings=list_name_headings,
        list_names=list_names,
        list_run_headings=list_run_headings,
        list_costs=list_costs,
        describe_cost=describe_cost,
        describe_measured=describe_measured,
        format_counts=format_counts,
        format_images=format_images,
        format_multiple=format_multiple,
        format_p=format_p,
        name_change=name_change,
        verdict_classes=_VERDICT_CLASSES,
        style=Markup(style),  # noqa: S704 - our own file, and a style element must not be escaped
        style_hash=hash_source(style),
    )
    return number_regions(add_heading_anchors(page))
