"""Transfer attacks: candidates crafted on another model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.transfer_results import TransferMatrix, build_transfer_matrices
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.sections.parts import (
    encode_entry,
    format_entry,
)
from robustbench_local.reports.sections.section import JsonDict, Section
from robustbench_local.store import RunStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class TransfersSection(Section[tuple[TransferMatrix, ...]]):
    """One matrix per attack: surrogate model by attacked model."""

    anchor = "transfers"
    title = "Transfer attacks"
    link_text = "Transfer"
    template = "transfers.html.j2"
    is_folded = True

    def build_content(self, evidence: Evidence, store: RunStore) -> tuple[TransferMatrix, ...]:
        """Build one matrix per transferred attack."""
        return build_transfer_matrices(evidence)

    def to_markdown(self, content: tuple[TransferMatrix, ...], evidence: Evidence) -> Iterable[str]:
        """Render a heading and a table per attack."""
        return [line for matrix in content for line in _render_transfer(matrix)]

    def to_json(self, evidence: Evidence) -> JsonDict:
        """Encode ``transfers``."""
        return {"transfers": [_encode_transfer(matrix) for matrix in build_transfer_matrices(evidence)]}

    def draw_figures(
        self, content: tuple[TransferMatrix, ...], names: Mapping[EvaluatedModel, str]
    ) -> Iterator[tuple[str, Figure]]:
        """Draw one figure per attack."""
        from robustbench_local.reports.figures.share_tables import draw_transfer

        for number, matrix in enumerate(content, start=1):
            yield f"transfer-{number}.png", draw_transfer(matrix, names)


TRANSFERS = TransfersSection()


def _render_transfer(matrix: TransferMatrix) -> list[str]:
    head = [
        "crafted on",
        *(f"evaluated on {escape_markdown(str(target))}" for target in matrix.attacked_models),
    ]
    rows = (
        [escape_markdown(row.label), *(format_entry(entry) for entry in row.entries)] for row in matrix.rows
    )
    basis = "among the images that the attacked model classifies correctly"
    text = f"Attack success under {escape_markdown(str(matrix.threat))}, {basis}. It counts in no worst case."
    return [f"## Transfer: {escape_markdown(matrix.label)}", "", text, "", *render_table(head, rows), ""]


def _encode_transfer(matrix: TransferMatrix) -> JsonDict:
    return {
        "attack": matrix.attack,
        "threat": matrix.threat.name,
        "goal": "targeted" if matrix.targeted else "untargeted",
        "attacked_models": [asdict(target) for target in matrix.attacked_models],
        "surrogates": [row.surrogate for row in matrix.rows],
        "attack_success": [[encode_entry(entry) for entry in row.entries] for row in matrix.rows],
    }
