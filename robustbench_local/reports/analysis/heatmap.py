"""The heat map of models by attacks as data, shared by the page, Markdown and the figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.family_labels import build_family_labels
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.reports.analysis.trust import format_mark, select_cell_distrust, select_distrust
from robustbench_local.reports.analysis.worst_case import WorstCase
from robustbench_local.statistics import Estimate, compute_clopper_pearson

WORST_CASE_LABEL = "worst case"
NOT_IN_GRID_REASON = "not in the grid"


@dataclass(frozen=True, kw_only=True)
class HeatMapEntry:
    """One entry: a share, or a word for the reason why there is none. Never blank."""

    estimate: Estimate
    """Robust accuracy."""
    status_text: str
    """Text in place of an unknown share: ``error``, ``not run``, ``void``, ..."""
    reason: str = ""
    """The reason why there is no share, or why it is incomplete."""
    own_clean_accuracy: Estimate | None = None
    """Clean accuracy on the entry's images, if those of the row differ."""
    mark: str = ""
    """``not trustworthy (D7)`` where diagnostics find that, ``void (D3)`` where they forbid the number."""

    @property
    def colour_step(self) -> int:
        """Index of the color: 0 for 0% to 20 for 100%."""
        return round(20 * self.estimate.value) if self.estimate.is_known else 0


@dataclass(frozen=True, kw_only=True)
class HeatMapColumn:
    """One attack under one threat model, or the worst case over all of them."""

    threat: Threat
    """The threat model."""
    attack: str | None
    """Attack name; None for the worst case."""
    label: str
    """Head of the column, below the threat model."""

    @property
    def is_worst_case(self) -> bool:
        """Whether this is the worst case."""
        return self.attack is None


@dataclass(frozen=True, kw_only=True)
class HeatMapRow:
    """One model with its defense, under every attack."""

    subject: EvaluatedModel
    """The model and defense."""
    clean_accuracy: Estimate
    """Accuracy on clean images."""
    entries: tuple[HeatMapEntry, ...]
    """One per column."""


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """Models by attacks; columns are grouped by threat model, each with its worst case first."""

    columns: tuple[HeatMapColumn, ...]
    """From left to right."""
    rows: tuple[HeatMapRow, ...]
    """In the order of the grid."""

    @property
    def threat_spans(self) -> list[tuple[Threat, int]]:
        """The threat models with their number of columns, from left to right."""
        threats = [column.threat for column in self.columns]
        return [(threat, threats.count(threat)) for threat in dict.fromkeys(threats)]

    @property
    def has_other_images(self) -> bool:
        """Whether some entry is over other images than the clean accuracy of its row."""
        return any(square.own_clean_accuracy for row in self.rows for square in row.entries)


def build_heatmap(evidence: Evidence) -> HeatMap:
    """Build the heat map of all untargeted attacks without transfers."""
    columns = tuple(
        column for threat in _order_threats(evidence) for column in _build_columns(evidence, threat)
    )
    rows = [
        HeatMapRow(
            subject=subject,
            clean_accuracy=clean,
            entries=tuple(_build_entry(evidence, subject, column, clean) for column in columns),
        )
        for subject in evidence.subjects
        for clean in [evidence.compute_clean_accuracy(subject)]
    ]
    return HeatMap(columns=columns, rows=tuple(rows))


def _order_threats(evidence: Evidence) -> list[Threat]:
    """Order threat models: the headline first, then by norm and ascending radius."""
    norms = [threat.norm for threat in evidence.threats]
    rest = (threat for threat in evidence.threats if threat != evidence.headline_threat)
    by_radius = sorted(rest, key=lambda threat: (norms.index(threat.norm), threat.eps))
    return [threat for threat in (evidence.headline_threat, *by_radius) if threat is not None]


def _build_columns(evidence: Evidence, threat: Threat) -> list[HeatMapColumn]:
    cells = [cell for cell in evidence.cells if cell.is_in_worst_case and cell.threat == threat]
    labels = build_family_labels(cells)
    single = [HeatMapColumn(threat=threat, attack=attack, label=label) for attack, label in labels.items()]
    if len(single) < 2:
        return single
    return [HeatMapColumn(threat=threat, attack=None, label=WORST_CASE_LABEL), *single]


def _build_entry(
    evidence: Evidence, subject: EvaluatedModel, column: HeatMapColumn, clean: Estimate
) -> HeatMapEntry:
    if column.attack is None:
        worst = evidence.get_worst_case(subject, column.threat)
        mark = format_mark(select_distrust(evidence, subject, column.threat))
        return replace(_build_worst_case_entry(worst, clean), mark=mark)
    cell = _find_cell(evidence.cells, subject, column)
    if cell is None:
        return HeatMapEntry(
            estimate=compute_clopper_pearson(0, 0), status_text="not run", reason=NOT_IN_GRID_REASON
        )
    return HeatMapEntry(
        estimate=cell.robust_accuracy,
        status_text=format_status(cell),
        reason=cell.problem or "",
        own_clean_accuracy=_select_differing_accuracy(cell.clean_accuracy, clean),
        mark=format_mark(select_cell_distrust(evidence, cell)),
    )


def _select_differing_accuracy(own: Estimate, clean: Estimate) -> Estimate | None:
    """Select the clean accuracy on an entry's own images, unless that of the row has as many images."""
    return own if own.is_known and own.n != clean.n else None


def _find_cell(
    cells: Sequence[CellResult], subject: EvaluatedModel, column: HeatMapColumn
) -> CellResult | None:
    matching = (
        cell
        for cell in cells
        if cell.subject == subject
        and cell.is_in_worst_case
        and cell.threat == column.threat
        and cell.record.attack == column.attack
    )
    return next(matching, None)


def format_status(cell: CellResult) -> str:
    """Format the status of a cell without a share."""
    if cell.reported_status == "partial":
        return f"partial, {cell.tally.n} of {cell.record.images}"
    return "no images" if cell.is_done else cell.reported_status


def _build_worst_case_entry(worst: WorstCase | None, clean: Estimate) -> HeatMapEntry:
    if worst is None:
        return HeatMapEntry(
            estimate=compute_clopper_pearson(0, 0), status_text="not run", reason=NOT_IN_GRID_REASON
        )
    reason = f"without {', '.join(worst.missing_attack_labels)}" if worst.missing_attacks else ""
    return HeatMapEntry(
        estimate=worst.robust_accuracy,
        status_text="unknown",
        reason=reason,
        own_clean_accuracy=_select_differing_accuracy(worst.clean_accuracy, clean),
    )
