"""Transferred attacks: candidates made on one model, tried on another. Never mixed with white-box numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robustbench_local.reports.analysis.evidence import CellResult, Evidence, Subject, Threat
from robustbench_local.reports.analysis.heatmap import NOT_IN_GRID, Square, standing_word
from robustbench_local.statistics import clopper_pearson


@dataclass(frozen=True, kw_only=True)
class TransferRow:
    """The candidates that were made on one model."""

    surrogate: str
    """Id of that model."""
    squares: tuple[Square, ...]
    """Attack success on each target of the matrix."""


@dataclass(frozen=True, kw_only=True)
class TransferMatrix:
    """One attack: surrogate models by attacked models."""

    attack: str
    """What the attack is called without its surrogate."""
    threat: Threat
    """What the attacker may do."""
    targeted: bool
    """Whether only certain classes count as success."""
    targets: tuple[Subject, ...]
    """The attacked models, in the order of the grid."""
    rows: tuple[TransferRow, ...]
    """In the order of the grid."""


def make_transfers(evidence: Evidence) -> list[TransferMatrix]:
    """One matrix for each attack that was transferred, in the order of the grid."""
    cells = [cell for cell in evidence.cells if cell.transferred]
    keys = dict.fromkeys(_key(cell) for cell in cells)
    models = [subject.model for subject in evidence.subjects]
    return [_matrix([cell for cell in cells if _key(cell) == key], models) for key in keys]


def _key(cell: CellResult) -> tuple[str, Threat, bool]:
    return _attack(cell), cell.threat, cell.targeted


def _attack(cell: CellResult) -> str:
    """The attack's name without the surrogate, so that its rows stand in one matrix."""
    return cell.record.attack.removesuffix(f"[from={cell.record.surrogate}]")


def _matrix(cells: Sequence[CellResult], models: Sequence[str]) -> TransferMatrix:
    targets = tuple(dict.fromkeys(cell.subject for cell in cells))
    named = dict.fromkeys(cell.record.surrogate or "" for cell in cells)
    surrogates = sorted(named, key=lambda name: models.index(name) if name in models else len(models))
    found = {(cell.record.surrogate or "", cell.subject): cell for cell in cells}
    rows = [
        TransferRow(
            surrogate=surrogate,
            squares=tuple(_square(found.get((surrogate, target)), surrogate, target) for target in targets),
        )
        for surrogate in surrogates
    ]
    attack, threat, targeted = _key(cells[0])
    return TransferMatrix(attack=attack, threat=threat, targeted=targeted, targets=targets, rows=tuple(rows))


def _square(cell: CellResult | None, surrogate: str, target: Subject) -> Square:
    if surrogate == target.model:
        return Square(
            estimate=clopper_pearson(0, 0), word="itself", reason="made and tried on the same model"
        )
    if cell is None:
        return Square(estimate=clopper_pearson(0, 0), word="not run", reason=NOT_IN_GRID)
    return Square(estimate=cell.attack_success, word=standing_word(cell), reason=cell.problem or "")
