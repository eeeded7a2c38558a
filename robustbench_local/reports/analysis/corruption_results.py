"""Accuracy under common corruptions by severity: an average case, not an adversary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from robustbench_local.cluster_statistics import estimate_image_share
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.heatmap import NOT_IN_GRID_REASON, HeatMapEntry, format_status
from robustbench_local.statistics import Estimate, compute_clopper_pearson, round_figure


@dataclass(frozen=True, kw_only=True)
class CorruptionRow:
    """One corruption, or the mean over all of them."""

    label: str
    """Name of the corruption."""
    entries: tuple[HeatMapEntry, ...]
    """Accuracy at each severity of the map."""
    mean_entry: HeatMapEntry
    """Mean over the severities."""


@dataclass(frozen=True, kw_only=True)
class CorruptionMap:
    """Accuracy of one model: corruptions by severities."""

    subject: EvaluatedModel
    """The model and defense."""
    clean_accuracy: Estimate
    """Accuracy on clean images; on the common images of the map, if there are any."""
    severities: tuple[int, ...]
    """Ascending."""
    rows: tuple[CorruptionRow, ...]
    """One per corruption, in the order of the grid."""
    mean_row: CorruptionRow
    """Mean over the corruptions; its ``mean_entry`` is the mean of all entries."""

    @property
    def image_counts(self) -> str:
        """Number of images of an entry: ``500``, or ``200 to 500``."""
        counts = [
            square.estimate.n for row in self.rows for square in row.entries if square.estimate.is_known
        ]
        ends = dict.fromkeys((min(counts), max(counts))) if counts else (0,)
        return " to ".join(f"{size:,}" for size in ends)


@collect_once
def build_corruption_maps(evidence: Evidence) -> list[CorruptionMap]:
    """Build a map per model with corrupted images; all maps have the same rows and columns."""
    cells = [cell for cell in evidence.cells if cell.is_corruption and not cell.targeted]
    kinds = list(dict.fromkeys(cell.threat.kind for cell in cells))
    severities = sorted({int(cell.record.eps) for cell in cells})
    return [
        _build_map(evidence, subject, [cell for cell in cells if cell.subject == subject], kinds, severities)
        for subject in dict.fromkeys(cell.subject for cell in cells)
    ]


def _build_map(
    evidence: Evidence,
    subject: EvaluatedModel,
    cells: Sequence[CellResult],
    kinds: Sequence[str],
    severities: Sequence[int],
) -> CorruptionMap:
    images = _select_common_images(cells)
    found = {(cell.threat.kind, int(cell.record.eps)): _build_entry(cell, images) for cell in cells}
    absent = HeatMapEntry(
        estimate=compute_clopper_pearson(0, 0), status_text="not run", reason=NOT_IN_GRID_REASON
    )
    table = [[found.get((kind, severity), absent) for severity in severities] for kind in kinds]
    rows = [
        CorruptionRow(
            label=kind.replace("_", " "), entries=tuple(squares), mean_entry=_compute_mean_entry(squares)
        )
        for kind, squares in zip(kinds, table, strict=True)
    ]
    mean = CorruptionRow(
        label="mean",
        entries=tuple(_compute_mean_entry(column) for column in zip(*table, strict=True)),
        mean_entry=_compute_mean_entry([square for squares in table for square in squares]),
    )
    return CorruptionMap(
        subject=subject,
        clean_accuracy=_compute_clean_accuracy(cells, images)
        if images
        else evidence.compute_clean_accuracy(subject),
        severities=tuple(severities),
        rows=tuple(rows),
        mean_row=mean,
    )


def _select_common_images(cells: Sequence[CellResult]) -> list[str]:
    """Select the images common to all done cells, so that entries and their mean are comparable."""
    met = [cell.verdicts for cell in cells if cell.is_done]
    return [image for image in met[0] if all(image in verdicts for verdicts in met)] if met else []


def _compute_clean_accuracy(cells: Sequence[CellResult], images: Sequence[str]) -> Estimate:
    met = [cell.verdicts for cell in cells if cell.is_done]
    marks = {image: all(one[image].clean_correct for one in met) for image in images}
    return estimate_image_share(marks, cells[0].groups)


def _build_entry(cell: CellResult, images: Sequence[str]) -> HeatMapEntry:
    """Build accuracy over these images, or over the cell's own if there are no common images."""
    share = cell.robust_accuracy
    if cell.is_done and images:
        share = estimate_image_share({image: cell.verdicts[image].robust for image in images}, cell.groups)
    return HeatMapEntry(estimate=share, status_text=format_status(cell), reason=cell.problem or "")


def _compute_mean_entry(squares: Sequence[HeatMapEntry]) -> HeatMapEntry:
    """Compute the mean of shares over the same images.

    Its interval is that of one share of as many images with this value; over groups of images, the mean of
    the shares' own intervals. A mean of several shares varies less between samples than one share, so the
    interval is conservative.
    """
    known = [square.estimate for square in squares if square.estimate.is_known]
    if not known:
        return HeatMapEntry(
            estimate=compute_clopper_pearson(0, 0), status_text="unknown", reason="nothing was measured"
        )
    value = math.fsum(estimate.value for estimate in known) / len(known)
    count = min(estimate.n for estimate in known)
    hits = round(value * count, 6)
    groups = min(estimate.groups for estimate in known)
    if groups:
        low, high = (
            round_figure(math.fsum(ends) / len(known))
            for ends in zip(*((estimate.low, estimate.high) for estimate in known), strict=True)
        )
    else:
        low = compute_clopper_pearson(math.floor(hits), count).low
        high = compute_clopper_pearson(math.ceil(hits), count).high
    reason = f"mean of {len(known)} of {len(squares)}" if len(known) < len(squares) else ""
    return HeatMapEntry(
        estimate=Estimate(value=value, low=low, high=high, n=count, groups=groups),
        status_text="",
        reason=reason,
    )
