"""Final predictions under targeted attacks: rows are models and source classes, columns targets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from robustbench_local.cluster_statistics import estimate_image_share
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.misclassification_severity import (
    SeveritySummary,
    compute_image_severity,
    find_severity_table,
)
from robustbench_local.reports.analysis.pairwise import describe_success_comparisons
from robustbench_local.reports.analysis.per_target import find_goal_parts
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.statistics import Estimate
from robustbench_local.store import OutcomeRecord, RunStore

PIXEL_ATTACK_LIMITS = (
    "These attacks change the pixels of the finished image, each image for itself. Nothing was printed, put "
    "up or photographed again: success here does not show that a sign on the road can be changed so, and "
    "failure does not show that a sticker on it would fail."
)
"""A caveat that accompanies every such number."""
MAX_TARGET_COLUMNS = 12
"""Maximum columns; rarer targets are added up in one more column."""


@dataclass(frozen=True, kw_only=True)
class TargetRow:
    """Final predictions for the correctly classified images of one source class."""

    subject: EvaluatedModel
    """The model and defense."""
    source_name: str
    """Name of the source class, or ``all images``."""
    target_counts: tuple[int, ...]
    """Images classified as each target of the matrix."""
    other_target_count: int
    """Images classified as a target without its own column."""
    nonfinite_count: int
    """Images with a NaN or infinite output of the model; counted as successes."""
    other_class_count: int
    """Images misclassified as no target, or whose attack raised; not counted as successes (V7)."""
    robust_count: int
    """Images still classified as their label."""
    attack_success: Estimate
    """Share of the correctly classified images that reached the attacker's goal."""
    problem: str | None = None
    """The reason why there are no numbers, if the cell is not done."""
    severity: SeveritySummary | None = None
    """Severity of the misclassifications; None if unknown."""


@dataclass(frozen=True, kw_only=True)
class TargetMatrix:
    """One targeted attack on every model."""

    attack: str
    """Identifier of the attack."""
    label: str
    """Label in tables."""
    threat: Threat
    """The threat model."""
    target_names: tuple[str, ...]
    """Names of the target classes with a column."""
    other_target_count: int
    """Number of target classes without their own column."""
    rows: tuple[TargetRow, ...]
    """In the order of the grid."""
    excluded_count: int
    """Images that the goal does not apply to."""
    severity_rule: str = ""
    """Source of the severities; empty if there are none."""
    comparisons: tuple[str, ...] = ()
    """Comparisons of models, one sentence each."""

    @property
    def has_nonfinite(self) -> bool:
        """Whether any output was not finite."""
        return any(row.nonfinite_count for row in self.rows)


def build_target_matrices(store: RunStore, evidence: Evidence) -> list[TargetMatrix]:
    """Build one matrix per targeted attack without transfers, in the order of the grid.

    Parts of a wider goal have no matrix: per_target.py builds their table.
    """
    parts = find_goal_parts(evidence.cells)
    whole = [cell for cell in evidence.cells if cell.record.key not in parts]
    targeted = [
        cell for cell in whole if cell.targeted and not (cell.has_external_candidates or cell.is_sticker)
    ]
    attacks = dict.fromkeys((cell.record.attack, cell.threat) for cell in targeted)
    return [
        _build_matrix(
            store, evidence, [cell for cell in targeted if (cell.record.attack, cell.threat) == attack]
        )
        for attack in attacks
    ]


def _build_matrix(store: RunStore, evidence: Evidence, cells: Sequence[CellResult]) -> TargetMatrix:
    outcomes = {
        cell.record.key: store.read_outcomes(cell.record.key) if cell.is_done else [] for cell in cells
    }
    first = cells[0].record
    names = [evidence.get_class_name(first.model, target) for target in first.targets]
    shown = _select_target_columns(evidence, cells, outcomes, names)
    rows = [row for cell in cells for row in _build_rows(evidence, cell, outcomes[cell.record.key], shown)]
    costs = find_severity_table(evidence, first.model, first.sources)
    reached = {
        cell.subject: {row.image: row.broken for row in outcomes[cell.record.key] if row.clean_correct}
        for cell in cells
    }
    return TargetMatrix(
        attack=first.attack,
        label=cells[0].label,
        threat=cells[0].threat,
        target_names=tuple(shown),
        other_target_count=len(names) - len(shown),
        rows=tuple(rows),
        excluded_count=first.excluded,
        severity_rule=costs.rule if costs else "",
        comparisons=tuple(describe_success_comparisons(reached, evidence.groups)),
    )


def _select_target_columns(
    evidence: Evidence,
    cells: Sequence[CellResult],
    outcomes: dict[str, list[OutcomeRecord]],
    names: Sequence[str],
) -> list[str]:
    """Select the targets with a column: all, or the most frequent ones, in the order of the card."""
    reached: Counter[str] = Counter()
    for cell in cells:
        rows = outcomes[cell.record.key]
        reached.update(
            evidence.get_class_name(cell.record.model, row.adversarial_prediction)
            for row in _select_target_hits(rows)
        )
    favourites = sorted(names, key=lambda name: -reached[name])[:MAX_TARGET_COLUMNS]
    return [name for name in names if name in favourites]


def _select_target_hits(rows: Iterable[OutcomeRecord]) -> list[OutcomeRecord]:
    return [row for row in rows if row.broken and row.adversarial_prediction is not None]


def _build_rows(
    evidence: Evidence, cell: CellResult, outcomes: Sequence[OutcomeRecord], shown: Sequence[str]
) -> list[TargetRow]:
    """Build a row per source class, and one for all of them if there are several."""
    sources = cell.record.sources
    names = [evidence.get_class_name(cell.record.model, index) for index in sources]
    everything = names[0] if len(names) == 1 else "all images"
    rows = [_build_row(evidence, cell, everything, outcomes, shown)]
    if len(sources) > 1 and cell.is_done:
        for name, index in zip(names, sources, strict=True):
            rows.append(
                _build_row(evidence, cell, name, [row for row in outcomes if row.label == index], shown)
            )
    return rows


def _build_row(
    evidence: Evidence, cell: CellResult, source: str, outcomes: Sequence[OutcomeRecord], shown: Sequence[str]
) -> TargetRow:
    correct = [row for row in outcomes if row.clean_correct]
    hits = Counter(
        evidence.get_class_name(cell.record.model, row.adversarial_prediction)
        for row in _select_target_hits(correct)
    )
    broken = sum(row.broken for row in correct)
    elsewhere = sum(row.moved_elsewhere or row.status == "error" for row in correct)  # not robust
    costs = find_severity_table(evidence, cell.record.model, cell.record.sources)
    readings = {row.image: (row.adversarial_prediction, row.label) for row in correct}
    return TargetRow(
        subject=cell.subject,
        source_name=source,
        target_counts=tuple(hits[name] for name in shown),
        other_target_count=sum(count for name, count in hits.items() if name not in shown),
        nonfinite_count=broken - hits.total(),
        other_class_count=elsewhere,
        robust_count=len(correct) - broken - elsewhere,
        attack_success=estimate_image_share({row.image: row.broken for row in correct}, cell.groups),
        problem=None if cell.is_done else f"{cell.reported_status}: {cell.problem or 'no result'}",
        severity=compute_image_severity(costs, readings, cell.groups) if costs and readings else None,
    )
