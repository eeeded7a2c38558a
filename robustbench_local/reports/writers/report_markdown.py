"""report.md: the answer and the tables, for pull requests and step summaries of CI."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from robustbench_local.reports.analysis.finding import FindingLevel
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.sections.report_data import ReportData
from robustbench_local.reports.summary import headline
from robustbench_local.reports.summary.run_verdict import build_run_verdict

_LEVEL_TITLES: tuple[tuple[FindingLevel, str], ...] = (
    ("void", "Invalid"),
    ("untrusted", "Not trustworthy"),
    ("incomplete", "Incomplete"),
    ("warning", "Warnings"),
    ("note", "Remarks"),
)


def render_markdown(report_data: ReportData, figures: Sequence[str]) -> str:
    """Render the report as Markdown.

    Args:
        report_data: Content of the report.
        figures: Paths of the figures, relative to the file.

    Returns:
        The text. Strings from outside are escaped (F71).
    """
    evidence = report_data.evidence
    lines = [
        f"# {escape_markdown(headline.describe_question(evidence))}",
        "",
        *_render_verdict(report_data),
        f"**{escape_markdown(headline.describe_answer(evidence))}**",
        "",
    ]
    rounded = headline.describe_eight_bit_answer(evidence)
    lines += [escape_markdown(rounded), ""] if rounded else []
    lines += [
        part
        for sentence in headline.describe_comparisons(evidence)
        for part in (escape_markdown(sentence), "")
    ]
    for level, title in _LEVEL_TITLES:
        shown = [finding.text for finding in report_data.findings if finding.level == level]
        lines += [f"## {title}", "", *(f"- {escape_markdown(text)}" for text in shown), ""] if shown else []
    lines += _render_gates(report_data)
    for section, content in report_data.list_shown_sections():
        lines += section.to_markdown(content, evidence)
    lines += [f"![{escape_markdown(_format_figure_title(path))}]({quote(path)})" for path in figures]
    lines += [
        "",
        " ".join(
            [
                _ACCURACY_EXPLANATION,
                _INTERVALS_NOTE,
                *([_VIEW_INTERVALS_NOTE] if report_data.has_section("stickers") else []),
            ]
        ),
    ]
    return "\n".join(lines) + "\n"


def _render_verdict(report_data: ReportData) -> list[str]:
    """Render the verdict of the run by its gates."""
    verdict = build_run_verdict(report_data.evidence, report_data.gate_report)
    text = " ".join(filter(None, [verdict.advice, verdict.sentence]))
    return [f"**{verdict.label}.** {escape_markdown(text)}", ""]


def _render_gates(report_data: ReportData) -> list[str]:
    verdicts = report_data.gate_report.verdicts
    if not verdicts:
        return []
    rows = (
        [
            verdict.ruling,
            escape_markdown(str(verdict.subject or "")),
            escape_markdown(verdict.limit_text),
            escape_markdown(verdict.reason),
        ]
        for verdict in verdicts
    )
    return ["## Gates", "", *render_table(["verdict", "model", "limit", "measured"], rows), ""]


def _format_figure_title(path: str) -> str:
    return path.rsplit("/", 1)[-1].removesuffix(".png").replace("-", " ")


_ACCURACY_EXPLANATION = (
    "Robust accuracy is computed over all images, including those that are misclassified without attack; "
    "attack "
    "success over the correctly classified images; the worst case image by image. Robust accuracy is an "
    "upper "
    "bound: a stronger attack can only lower it and raise attack success."
)
_INTERVALS_NOTE = (
    "Intervals over images cover further images from the same distribution. They do not cover other cameras, "
    "weather, label errors or a retrained model."
)
_VIEW_INTERVALS_NOTE = "Intervals over views cover further views of these signs, not other signs."
