"""Transfer attacks: candidates crafted on a surrogate model. Never mixed with white-box numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.heatmap import NOT_IN_GRID_REASON, HeatMapEntry, format_status
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.statistics import compute_clopper_pearson


@dataclass(frozen=True, kw_only=True)
class TransferRow:
    """The candidates crafted on one surrogate model."""

    surrogate: str
    """Id of the surrogate model."""
    label: str
    """Label in tables."""
    entries: tuple[HeatMapEntry, ...]
    """Attack success on each attacked model."""


@dataclass(frozen=True, kw_only=True)
class TransferMatrix:
    """One attack: surrogate models (rows) by attacked models (columns)."""

    attack: str
    """The attack's identifier without its surrogate."""
    label: str
    """Label in tables without the surrogate."""
    threat: Threat
    """The threat model."""
    targeted: bool
    """Whether only certain classes count as success."""
    attacked_models: tuple[EvaluatedModel, ...]
    """The attacked models, in the order of the grid."""
    rows: tuple[TransferRow, ...]
    """In the order of the grid."""


@collect_once
def build_transfer_matrices(evidence: Evidence) -> list[TransferMatrix]:
    """Build one matrix per transferred attack, in the order of the grid."""
    cells = [cell for cell in evidence.cells if cell.transferred]
    keys = dict.fromkeys(_get_matrix_key(cell) for cell in cells)
    models = [subject.model for subject in evidence.subjects]
    return [_build_matrix([cell for cell in cells if _get_matrix_key(cell) == key], models) for key in keys]


def _get_matrix_key(cell: CellResult) -> tuple[str, Threat, bool]:
    return _strip_surrogate(cell), cell.threat, cell.targeted


def _strip_surrogate(cell: CellResult) -> str:
    """Remove the surrogate from the attack's name, which its matrix is grouped by."""
    return cell.record.attack.removesuffix(f"[from={cell.record.surrogate}]")


def _build_matrix(cells: Sequence[CellResult], models: Sequence[str]) -> TransferMatrix:
    targets = tuple(dict.fromkeys(cell.subject for cell in cells))
    names = {cell.record.surrogate or "": cell.surrogate_label or "" for cell in cells}
    surrogates = sorted(names, key=lambda name: models.index(name) if name in models else len(models))
    found = {(cell.record.surrogate or "", cell.subject): cell for cell in cells}
    rows = [
        TransferRow(
            surrogate=surrogate,
            label=names[surrogate],
            entries=tuple(
                _build_entry(found.get((surrogate, target)), surrogate, target) for target in targets
            ),
        )
        for surrogate in surrogates
    ]
    attack, threat, targeted = _get_matrix_key(cells[0])
    origin = f"[from={cells[0].record.surrogate}]"  # in runs without labels the identifier ends with it
    return TransferMatrix(
        attack=attack,
        label=cells[0].family_label.removesuffix(origin),
        threat=threat,
        targeted=targeted,
        attacked_models=targets,
        rows=tuple(rows),
    )


def _build_entry(cell: CellResult | None, surrogate: str, target: EvaluatedModel) -> HeatMapEntry:
    if surrogate == target.model:
        return HeatMapEntry(
            estimate=compute_clopper_pearson(0, 0),
            status_text="itself",
            reason="crafted and evaluated on the same model",
        )
    if cell is None:
        return HeatMapEntry(
            estimate=compute_clopper_pearson(0, 0), status_text="not run", reason=NOT_IN_GRID_REASON
        )
    return HeatMapEntry(
        estimate=cell.attack_success, status_text=format_status(cell), reason=cell.problem or ""
    )
