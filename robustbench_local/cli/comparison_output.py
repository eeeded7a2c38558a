"""A comparison of runs on the terminal: the answer, what else differs, and the tables."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from robustbench_local.cli.run_results import make_console
from robustbench_local.cli.terminal_output import escape_text, print_line
from robustbench_local.reports.formatting.text import format_count, join_in_sentence
from robustbench_local.reports.sections.comparison import CHANGED_IMAGES, CLASSES, COMPARISON_SECTIONS
from robustbench_local.reports.sections.comparison.comparison_data import ComparisonData
from robustbench_local.reports.sections.comparison.comparison_section import TextTable
from robustbench_local.reports.summary.comparison_answer import (
    describe_comparison_answer,
    list_cautions,
    list_change_sentences,
    list_noted_differences,
)

_COLOUR_BY_VERDICT = {
    "worse": "red",
    "better": "green",
    "fail": "red",
    "pass": "green",
    "inconclusive": "yellow",
}
_LONG_SECTIONS = (CLASSES, CHANGED_IMAGES)
"""Sections that the page has whole, and the terminal in a line."""
MAX_NAMED_CLASSES = 6
"""Classes that a line names."""
_NUMBER_HEADINGS = frozenset({"n", "lost", "won", "p", "position", "passes as a multiple"})
_ISOLATES = dict.fromkeys(map(ord, "\N{FIRST STRONG ISOLATE}\N{POP DIRECTIONAL ISOLATE}"))


def print_comparison(data: ComparisonData) -> None:
    """Print a comparison; long lines are broken between words on a terminal only."""
    console = make_console(as_json=False)
    _print_text(console, describe_comparison_answer(data.comparisons), style="bold")
    for comparison in data.comparisons:
        for sentence in list_change_sentences(comparison, is_single=data.is_single):
            _print_text(console, sentence)
        for line in list_cautions(comparison):
            _print_text(console, f"caution: {line}", style="yellow")
        for line in list_noted_differences(comparison):
            _print_text(console, f"noted: {line}", style="dim")
    for section in COMPARISON_SECTIONS:
        if section not in _LONG_SECTIONS and section.is_shown(data):
            for table in section.build_tables(data):
                console.print(_build_table(section.title, table))
                for note in table.notes:
                    _print_text(console, note, style="dim")
    for line in (*_list_class_lines(data), *_list_image_lines(data)):
        _print_text(console, line)


def _list_class_lines(data: ComparisonData) -> Iterator[str]:
    """List in how many classes images changed sides, and the classes that differ significantly."""
    for comparison in data.comparisons:
        rows = comparison.tables["classes"]
        changed = [row for row in rows if row.change.lost_images or row.change.won_images]
        if changed:
            differing = [row for row in rows if row.change.verdict in {"worse", "better"}]
            named = [f"{row.label} ({row.change.verdict})" for row in differing[:MAX_NAMED_CLASSES]]
            verdicts = join_in_sentence(named) or "no single class is shown to differ"
            prefix = f"{comparison.candidate.name}: " if data.has_several_runs else ""
            count = f"{len(changed):,} of {format_count(len(rows), 'class')}"
            yield f"{prefix}images of {count} changed sides: {verdicts}"


def _list_image_lines(data: ComparisonData) -> Iterator[str]:
    """List how many images of each model changed sides."""
    for table in CHANGED_IMAGES.build_tables(data):
        yield f"images that changed sides: {table.title} (--out writes a page that lists and shows them)"


def _build_table(title: str, table: TextTable) -> Table:
    shown = Table(title=escape_text(title), title_justify="left")
    for heading in table.head:
        is_number = heading in _NUMBER_HEADINGS
        shown.add_column(
            escape_text(heading), justify="right" if is_number else "left", overflow="fold", no_wrap=is_number
        )
    for row in table.rows:
        shown.add_row(*(escape_text(entry, _choose_colour(entry)) for entry in row))
    return shown


def _choose_colour(entry: str) -> str:
    """Return the colour of an entry that is a verdict; none for any other."""
    word = entry.partition(",")[0].partition(" (")[0]
    return _COLOUR_BY_VERDICT.get(word, "")


def _print_text(console: Console, text: str, style: str | None = None) -> None:
    # a terminal orders text by itself
    print_line(console, text.translate(_ISOLATES), style=style, wrap=console.is_terminal)
