"""Gates as Markdown, for the step summary of a CI service: the table of gates first, at most 1 MiB."""

from __future__ import annotations

from robustbench_local.counted_nouns import choose_form, format_count
from robustbench_local.reports.analysis.gate_lines import format_limit, format_result, format_subject
from robustbench_local.reports.analysis.gate_types import GateStatus, GateVerdict
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.writers.gate_document import GateDocument

MAX_SUMMARY_BYTES = 1_000_000
"""Largest document: GitHub refuses a step summary above 1 MiB as a whole."""
MAX_CELL_CHARACTERS = 2_000
"""Longest text of a cell before it is cut."""
_HEAD = ("gate", "model", "measured", "required", "why")
_ORDER: tuple[GateStatus, ...] = ("fail", "inconclusive", "warn", "waived", "pass", "skipped")
"""What needs attention comes first, so that a cut table keeps it."""


def format_gate_markdown(document: GateDocument) -> str:
    """Format a document as Markdown.

    Rows that do not fit are left out from the end, and a line says how many; the notes follow if they fit.
    """
    report = document.report
    title = f"## Gates: {report.counts_text or 'none'}"
    judge = escape_markdown(report.policy or "its own gates")
    subtitle = f"Run {escape_markdown(document.run)}, judged by {judge}"
    if document.baseline:
        subtitle += f", against {escape_markdown(document.baseline)}"
    head = [title, "", *_list_violations(document)]
    tail = ["", f"{subtitle}."]
    table = [*render_table(_HEAD, ())]
    room = MAX_SUMMARY_BYTES - _count_bytes([*head, *table, *tail, _format_left_out(len(report.verdicts))])
    ranked = sorted(report.verdicts, key=lambda verdict: _ORDER.index(verdict.status))
    rows, used = _select_fitting([_render_row(verdict) for verdict in ranked], room)
    left_out = len(ranked) - len(rows)
    notes = [f"- {escape_markdown(_cut_text(note))}" for note in report.all_notes]
    if report.unread_reason:
        notes.insert(0, f"- {escape_markdown(report.unread_reason)}")
    shown_notes, _ = _select_fitting(notes, room - used)
    lines = [
        *head,
        *(table if rows else []),
        *rows,
        *(["", _format_left_out(left_out)] if left_out else []),
        *tail,
        *(["", *shown_notes] if shown_notes else []),
    ]
    return "\n".join(lines) + "\n"


def _render_row(verdict: GateVerdict) -> str:
    cells = (
        f"**{verdict.status}**" if verdict.status not in {"pass", "skipped"} else verdict.status,
        escape_markdown(_cut_text(format_subject(verdict))),
        escape_markdown(_cut_text(format_result(verdict))),
        escape_markdown(format_limit(verdict.gate)),
        escape_markdown(_cut_text(verdict.explanation)),
    )
    return f"| {' | '.join(cells)} |"


def _list_violations(document: GateDocument) -> list[str]:
    violations = document.report.violations
    lines = [f"- certificate violated: {escape_markdown(_cut_text(line))}" for line in violations]
    shown, _ = _select_fitting(lines, MAX_SUMMARY_BYTES // 4)
    return ["**No number of this run is reliable.**", "", *shown, ""] if lines else []


def _select_fitting(lines: list[str], room: int) -> tuple[list[str], int]:
    """Select the first lines that fit into a number of bytes, and count their bytes."""
    used = 0
    for index, line in enumerate(lines):
        size = _count_bytes([line])
        if used + size > room:
            return lines[:index], used
        used += size
    return lines, used


def _format_left_out(count: int) -> str:
    verb = choose_form(count, "is", "are")
    return f"{format_count(count, 'further gate')} {verb} left out of this table, which has at most 1 MB."


def _count_bytes(lines: list[str]) -> int:
    return sum(len(line.encode("utf-8", "backslashreplace")) + 1 for line in lines)


def _cut_text(text: str) -> str:
    return text if len(text) <= MAX_CELL_CHARACTERS else f"{text[: MAX_CELL_CHARACTERS - 3]}..."
