"""compare.md: a comparison of runs for pull requests and step summaries of CI."""

from __future__ import annotations

from robustbench_local.reports.formatting.markdown_tables import escape_markdown
from robustbench_local.reports.sections.comparison import COMPARISON_SECTIONS
from robustbench_local.reports.sections.comparison.comparison_data import ComparisonData
from robustbench_local.reports.summary.comparison_answer import (
    describe_comparison_answer,
    describe_question,
    list_cautions,
    list_change_sentences,
    list_noted_differences,
)


def render_comparison_markdown(data: ComparisonData) -> str:
    """Render a comparison as Markdown; strings from outside are escaped (F71)."""
    lines = [
        f"# {escape_markdown(describe_question(data.comparisons))}",
        "",
        f"**{escape_markdown(describe_comparison_answer(data.comparisons))}**",
        "",
    ]
    for comparison in data.comparisons:
        for sentence in list_change_sentences(comparison, is_single=data.is_single):
            lines += [escape_markdown(sentence), ""]
        cautions = list_cautions(comparison)
        if cautions:
            name = f": {escape_markdown(comparison.candidate.name)}" if data.has_several_runs else ""
            lines += [f"## What limits this comparison{name}", ""]
            lines += [*(f"- {escape_markdown(line)}" for line in cautions), ""]
    for section in COMPARISON_SECTIONS:
        if section.is_shown(data):
            lines += [f"## {section.title}", "", *section.to_markdown(data)]
    noted = [line for comparison in data.comparisons for line in list_noted_differences(comparison)]
    if noted:
        lines += ["## The runs", "", *(f"- {escape_markdown(line)}" for line in dict.fromkeys(noted)), ""]
    return "\n".join(lines).rstrip("\n") + "\n"
