"""The interface of a section of a comparison: its form on the page, as Markdown and as JSON."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from robustbench_local.reports.analysis.run_comparison import RunComparison
from robustbench_local.reports.analysis.run_pairs import SubjectPair
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.sections.comparison.comparison_data import ComparisonData
from robustbench_local.reports.sections.section import JsonDict

MAX_HEADING_CHARACTERS = 24
"""Longest name of a run that heads a column; longer ones are called baseline and this run there."""


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """A table of plain text, for the terminal and for Markdown."""

    head: Sequence[str]
    """Headings of the columns."""
    rows: Sequence[Sequence[str]]
    """Entries, as many in each row as there are headings."""
    title: str = ""
    """Heading, where a section has several tables."""
    notes: Sequence[str] = ()
    """Sentences below it."""


class ComparisonSection(ABC):
    """A section of a comparison. Each kind has its own module, with its template beside it."""

    anchor: str
    """Id of the section's heading on the page; no two sections have the same."""
    title: str
    """Heading."""
    template: str
    """Name of the page's template, which sees the section as ``section`` and the content as ``data``."""
    explanation: str = ""
    """How to read the section, in sentences."""

    @abstractmethod
    def is_shown(self, data: ComparisonData) -> bool:
        """Return whether the content has anything to show."""

    @abstractmethod
    def build_tables(self, data: ComparisonData) -> Iterable[TextTable]:
        """Build the tables as plain text, without any escapes."""

    @abstractmethod
    def to_json(self, comparison: RunComparison) -> JsonDict:
        """Encode the entries of one comparison for compare.json."""

    def to_markdown(self, data: ComparisonData) -> Iterator[str]:
        """Render the lines of Markdown below the heading; names from outside are escaped."""
        yield from (self.explanation, "")
        for table in self.build_tables(data):
            yield from (f"### {escape_markdown(table.title)}", "") if table.title else ()
            yield from render_table(_escape_all(table.head), map(_escape_all, table.rows))
            yield ""
            for note in table.notes:
                yield from (escape_markdown(note), "")

    def read_template(self) -> str:
        """Read the text of the page's template."""
        package = type(self).__module__.rpartition(".")[0]
        return resources.files(package).joinpath(self.template).read_text(encoding="utf-8")


def list_name_headings(data: ComparisonData) -> list[str]:
    """List the headings of the columns that name run and model, where there are several."""
    return [*(["run"] if data.has_several_runs else []), *(["model"] if data.has_several_models else [])]


def list_names(data: ComparisonData, comparison: RunComparison, subjects: SubjectPair | None) -> list[str]:
    """List the entries of these columns as plain text; ``subjects`` is None where a row has no model."""
    model = "" if subjects is None else format_subjects(subjects)
    return [
        *([comparison.candidate.name] if data.has_several_runs else []),
        *([model] if data.has_several_models else []),
    ]


def format_subjects(subjects: SubjectPair) -> str:
    """Format the models of a pair: one name, or both where they differ."""
    if not subjects.is_renamed:
        return str(subjects.second)
    return f"{subjects.second} against {subjects.first}"


def list_run_headings(data: ComparisonData) -> list[str]:
    """List the headings of the columns of the baseline and of the run that is compared with it."""
    first = data.comparisons[0]
    names = [first.baseline.name, "this run" if data.has_several_runs else first.candidate.name]
    return [
        name if len(name) <= MAX_HEADING_CHARACTERS else word
        for name, word in zip(names, ("baseline", "this run"), strict=True)
    ]


def encode_subjects(subjects: SubjectPair) -> dict[str, Any]:
    """Encode the two models for compare.json."""
    return {
        "baseline_model": subjects.first.model,
        "baseline_defense": subjects.first.defense,
        "model": subjects.second.model,
        "defense": subjects.second.defense,
    }


def _escape_all(texts: Iterable[str]) -> list[str]:
    return [escape_markdown(text) for text in texts]
