"""Each attacker's knowledge of the model, and its number of queries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.trust import format_mark, select_cell_distrust
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.formatting.text import (
    MISSING_TEXT,
    format_estimate,
)
from robustbench_local.reports.sections.section import Section
from robustbench_local.store import RunStore


class AttackerKnowledgeSection(Section[tuple[CellResult, ...]]):
    """Knowledge and queries of each attack; shown if some attack is not white-box."""

    anchor = "sight"
    title = "Attacker knowledge and queries"
    link_text = "Attacker knowledge"
    template = "attacker_knowledge.html.j2"
    is_folded = True

    def build_content(self, evidence: Evidence, store: RunStore) -> tuple[CellResult, ...]:
        """Select the cells of attackers: no corruptions, no certificates, no transfer to the same model.

        Stickers have a section of their own.
        """
        return tuple(cell for cell in evidence.cells if not _has_no_attacker(cell))

    def is_shown(self, content: tuple[CellResult, ...]) -> bool:
        """Return whether some attack is not white-box."""
        return any(cell.record.knowledge != "white-box" for cell in content)

    def to_markdown(self, content: tuple[CellResult, ...], evidence: Evidence) -> Iterable[str]:
        """Render one table."""
        return _render_attacker_knowledge(evidence, content)


ATTACKER_KNOWLEDGE = AttackerKnowledgeSection()


def _has_no_attacker(cell: CellResult) -> bool:
    return (
        cell.is_corruption or cell.is_self_transfer or cell.is_naive or cell.is_certificate or cell.is_sticker
    )


def _render_attacker_knowledge(evidence: Evidence, cells: Sequence[CellResult]) -> list[str]:
    head = [
        "model",
        "attack",
        "knowledge",
        "attack success",
        "passes on success: median, maximum",
        "on all images",
    ]
    rows = (
        [
            escape_markdown(str(cell.subject)),
            escape_markdown(cell.label),
            escape_markdown(cell.attacker_knowledge),
            _format_success(evidence, cell) if cell.is_done else cell.reported_status,
            _format_passes(cell.query_stats.median_broken, cell.query_stats.largest_broken),
            _format_passes(cell.query_stats.median, cell.query_stats.largest),
        ]
        for cell in cells
    )
    return ["## Attacker knowledge and queries", "", *render_table(head, rows), ""]


def _format_success(evidence: Evidence, cell: CellResult) -> str:
    mark = format_mark(select_cell_distrust(evidence, cell))
    return f"{format_estimate(cell.attack_success)}{f', {mark}' if mark else ''}"


def _format_passes(middle: float | None, most: int | None) -> str:
    return MISSING_TEXT if middle is None else f"{middle:,.0f}, {most:,}"
