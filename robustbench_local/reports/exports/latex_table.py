"""One LaTeX table in the style of booktabs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from robustbench_local.reports.exports.latex_text import escape_latex
from robustbench_local.reports.formatting.fonts import shorten_text
from robustbench_local.reports.formatting.text import (
    MISSING_TEXT,
    format_interval,
    format_percent,
    format_sample,
)
from robustbench_local.statistics import Estimate

MAX_NARROW_COLUMNS = 3
"""Columns of shares that fit into one column of a paper in two columns."""

HEADING_CHARACTERS = 11
"""Characters of a line of a heading; a longer word has a line of its own."""
NAME_CHARACTERS = 22
"""Characters of a line of a row's name."""

MAX_WORD_CHARACTERS = 40
"""Characters of a word without spaces; a longer one loses its middle, for the table would leave the page."""


@dataclass(frozen=True, kw_only=True)
class LatexEntry:
    """A share in a table, or why there is none."""

    estimate: Estimate
    """The share with its interval."""
    status_text: str = ""
    """Replaces an unknown share."""
    mark: str = ""
    """A sign behind the share that the caption explains."""
    is_bold: bool = False
    """Whether the share is printed bold."""


@dataclass(frozen=True, kw_only=True)
class LatexTable:
    """A table of shares in percent with their intervals; all texts are plain."""

    label: str
    """The label for a reference, without ``tab:``: ASCII letters, digits and hyphens."""
    caption: str
    """The sentences above the table."""
    row_title: str
    """Heading of the column of row names."""
    columns: tuple[str, ...]
    """Headings of the columns of shares."""
    rows: tuple[tuple[str, tuple[LatexEntry, ...]], ...]
    """Name of each row, and one entry for each column."""


def render_latex_table(table: LatexTable) -> str:
    """Render a ``table`` environment, or ``table*`` if it has many columns.

    Intervals stand below their shares, so that a table with many attacks fits on a page. A column whose
    shares are all of equally many images has n in its head; otherwise n stands below each interval.
    """
    columns = list(zip(*(entries for _, entries in table.rows), strict=True))
    samples = [_find_common_sample(column) for column in columns]
    environment = "table*" if len(table.columns) > MAX_NARROW_COLUMNS else "table"
    lines = [
        rf"\begin{{{environment}}}[t]",
        r"\centering",
        rf"\caption{{{escape_latex(table.caption)}}}",
        rf"\label{{tab:{table.label}}}",
        r"\small",
        r"\setlength{\tabcolsep}{4pt}",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        _join_row([escape_latex(table.row_title), *map(_stack_words, table.columns)]),
        *([_join_row(["", *map(_format_small, samples)])] if any(samples) else []),
        r"\midrule",
        *(line for name, entries in table.rows for line in _render_row(name, entries, samples)),
        r"\bottomrule",
        r"\end{tabular}",
        rf"\end{{{environment}}}",
    ]
    return "\n".join(lines) + "\n"


def _join_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _stack_words(text: str, width: int = HEADING_CHARACTERS, side: str = "r") -> str:
    """Stack the words of a text, so that its column is no wider than it must be."""
    wrapped = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    lines = [shorten_text(line, MAX_WORD_CHARACTERS) for line in wrapped]
    if len(lines) < 2:
        return escape_latex("".join(lines))
    stacked = r"\\".join(map(escape_latex, lines))
    return rf"\shortstack[{side}]{{{stacked}}}"


def _format_small(text: str) -> str:
    return rf"{{\scriptsize {_stack_words(text)}}}" if text else ""


def _find_common_sample(entries: Sequence[LatexEntry]) -> str:
    """Return the sample of a column if all its known shares have the same one, else nothing."""
    samples = {_format_sample(entry.estimate) for entry in entries if entry.estimate.is_known}
    return samples.pop() if len(samples) == 1 else ""


def _format_sample(estimate: Estimate) -> str:
    """Format n; the images of later phases follow those of the first: ``n = 50, 32, 16``."""
    if estimate.phases:
        return f"n = {', '.join(f'{images:,}' for images in estimate.phases)}"
    return format_sample(estimate)


def _render_row(name: str, entries: Sequence[LatexEntry], samples: Sequence[str]) -> list[str]:
    """Render a row of shares, one of intervals, and one of samples where a column has several."""
    own = [
        "" if common or not entry.estimate.is_known else _format_sample(entry.estimate)
        for entry, common in zip(entries, samples, strict=True)
    ]
    intervals = [
        format_interval(entry.estimate).removesuffix("%") if entry.estimate.is_known else ""
        for entry in entries
    ]
    rows = [
        [_stack_words(name, NAME_CHARACTERS, "l"), *map(_format_share, entries)],
        *(["", *map(_format_small, texts)] for texts in (intervals, own) if any(texts)),
    ]
    return [*map(_join_row, rows[:-1]), rf"{_join_row(rows[-1])}[2pt]"]


def _format_share(entry: LatexEntry) -> str:
    if not entry.estimate.is_known:
        return escape_latex(entry.status_text or MISSING_TEXT)
    share = escape_latex(format_percent(entry.estimate.value).removesuffix("%"))
    shown = rf"\textbf{{{share}}}" if entry.is_bold else share
    return shown + escape_latex(entry.mark)
