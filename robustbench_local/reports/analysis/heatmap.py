"""The heat map model x attack, as data: the page, the Markdown and the figure draw the same squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robustbench_local.reports.analysis.evidence import CellResult, Evidence, Subject, Threat, attack_labels
from robustbench_local.reports.analysis.worst_case import WorstCase
from robustbench_local.statistics import Estimate, clopper_pearson

WORST_CASE = "worst case"
NOT_IN_GRID = "not in the grid"


@dataclass(frozen=True, kw_only=True)
class Square:
    """One square: a share, or a word that says why there is none. Never blank."""

    estimate: Estimate
    """Robust accuracy."""
    word: str
    """Stands where the share is not known: ``error``, ``not run``, ``void``, ..."""
    reason: str = ""
    """Why there is no share, or what is missing from it."""
    untouched: Estimate | None = None
    """Accuracy on the same images untouched, where the row's is over others."""

    @property
    def step(self) -> int:
        """The colour's place on the scale: 0 for 0 % to 20 for 100 %."""
        return round(20 * self.estimate.value) if self.estimate.known else 0


@dataclass(frozen=True, kw_only=True)
class Column:
    """One attack under one threat, or the worst case over all of them."""

    threat: Threat
    """What the attacker may do."""
    attack: str | None
    """Attack name; None for the worst case."""
    label: str
    """What stands above the column, below the threat."""

    @property
    def worst(self) -> bool:
        """Whether this is the worst case."""
        return self.attack is None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model, with its defense, against everything."""

    subject: Subject
    """The model and defense."""
    clean: Estimate
    """Accuracy on untouched images."""
    squares: tuple[Square, ...]
    """One a column."""


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """Models by attacks; columns of one threat stand together, its worst case first."""

    columns: tuple[Column, ...]
    """From left to right."""
    rows: tuple[Row, ...]
    """In the order of the grid."""

    @property
    def groups(self) -> list[tuple[Threat, int]]:
        """The threats and how many columns each has, from left to right."""
        threats = [column.threat for column in self.columns]
        return [(threat, threats.count(threat)) for threat in dict.fromkeys(threats)]

    @property
    def has_other_images(self) -> bool:
        """Whether some square is over other images than the untouched ones of its row."""
        return any(square.untouched for row in self.rows for square in row.squares)


def make_heatmap(evidence: Evidence) -> HeatMap:
    """The heat map of all untargeted attacks on the models themselves."""
    columns = tuple(column for threat in _ordered(evidence) for column in _columns(evidence, threat))
    rows = [
        Row(
            subject=subject,
            clean=clean,
            squares=tuple(_square(evidence, subject, column, clean) for column in columns),
        )
        for subject in evidence.subjects
        for clean in [evidence.clean_accuracy(subject)]
    ]
    return HeatMap(columns=columns, rows=tuple(rows))


def _ordered(evidence: Evidence) -> list[Threat]:
    """The headline first, then norm by norm from the smallest radius on."""
    norms = [threat.norm for threat in evidence.threats]
    rest = (threat for threat in evidence.threats if threat != evidence.headline)
    by_radius = sorted(rest, key=lambda threat: (norms.index(threat.norm), threat.eps))
    return [threat for threat in (evidence.headline, *by_radius) if threat is not None]


def _columns(evidence: Evidence, threat: Threat) -> list[Column]:
    cells = [cell for cell in evidence.cells if cell.in_worst_case and cell.threat == threat]
    labels = attack_labels(cells)
    single = [Column(threat=threat, attack=attack, label=label) for attack, label in labels.items()]
    if len(single) < 2:
        return single
    return [Column(threat=threat, attack=None, label=WORST_CASE), *single]


def _square(evidence: Evidence, subject: Subject, column: Column, clean: Estimate) -> Square:
    if column.attack is None:
        return _worst_square(evidence.worst(subject, column.threat), clean)
    cell = _find(evidence.cells, subject, column)
    if cell is None:
        return Square(estimate=clopper_pearson(0, 0), word="not run", reason=NOT_IN_GRID)
    return Square(
        estimate=cell.robust_accuracy,
        word=standing_word(cell),
        reason=cell.problem or "",
        untouched=_of_others(cell.clean_accuracy, clean),
    )


def _of_others(own: Estimate, clean: Estimate) -> Estimate | None:
    """Accuracy on a square's own images, unless that of the row is over as many."""
    return own if own.known and own.n != clean.n else None


def _find(cells: Sequence[CellResult], subject: Subject, column: Column) -> CellResult | None:
    matching = (
        cell
        for cell in cells
        if cell.subject == subject
        and cell.in_worst_case
        and cell.threat == column.threat
        and cell.record.attack == column.attack
    )
    return next(matching, None)


def standing_word(cell: CellResult) -> str:
    """What stands in a square that has no share."""
    if cell.standing == "partial":
        return f"partial, {cell.tally.n} of {cell.record.images}"
    return "no images" if cell.done else cell.standing


def _worst_square(worst: WorstCase | None, clean: Estimate) -> Square:
    if worst is None:
        return Square(estimate=clopper_pearson(0, 0), word="not run", reason=NOT_IN_GRID)
    reason = f"without {', '.join(worst.missing)}" if worst.missing else ""
    return Square(
        estimate=worst.robust_accuracy,
        word="unknown",
        reason=reason,
        untouched=_of_others(worst.clean_accuracy, clean),
    )
