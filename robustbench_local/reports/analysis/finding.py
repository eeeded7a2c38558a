"""A finding: a sentence that limits the meaning of numbers, with its level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.formatting.text import format_cells, isolate_direction

FindingLevel = Literal["void", "untrusted", "incomplete", "warning", "note"]
LEVEL_ORDER: tuple[FindingLevel, ...] = get_args(FindingLevel)
"""The most serious level first."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One sentence with its level."""

    level: FindingLevel
    """``void``: the number is meaningless. ``untrusted``: it is not trustworthy, because attacks may have
    been misled, and no gate on it passes. ``incomplete``: something was not measured. ``warning``: the
    number needs this caveat. ``note``: for information."""
    text: str
    """The sentence."""


def format_cell(cell: CellResult) -> str:
    """Format a cell in words: the attack on the subject."""
    return f"{isolate_direction(cell.label)} on {isolate_direction(str(cell.subject))}"


def format_cells_with_facts(cells: Sequence[CellResult], fact: Callable[[CellResult], str]) -> str:
    """Join cells with a fact about each as in a sentence; only the first few of many."""
    return format_cells([f"{format_cell(cell)} ({fact(cell)})" for cell in cells])
