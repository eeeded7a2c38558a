"""Count the outcomes of a cell and collect what its images say, column by column."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import compress
from statistics import median
from typing import Any

from robustbench_local.counted_nouns import choose_form, format_count
from robustbench_local.reports.analysis.cell_result import CellResult, QueryStats, ReportedStatus
from robustbench_local.reports.analysis.image_verdict import (
    ImagePrediction,
    ImageVerdict,
    TwinVerdict,
    build_twin_verdict,
)
from robustbench_local.reports.analysis.sticker_views import SignResult
from robustbench_local.reports.analysis.success_norms import SuccessNorms
from robustbench_local.store import CellRecord, OutcomeCounts, OutcomeRecord
from robustbench_local.store.outcome_columns import OutcomeColumns, count_columns
from robustbench_local.store.record_rows import OUTCOME_COLUMNS
from robustbench_local.store.run_labels import RunLabels

RESULT_COLUMNS = tuple(
    name
    for name in OUTCOME_COLUMNS
    if name not in {"cell", "position", "error", "original_hash", "adversarial_hash"}
)
"""The columns of outcomes that a result needs."""
_NORM_COLUMNS = {"Linf": "linf", "L2": "l2", "L1": "l1", "L0": "l0"}
"""The column of an outcome that holds its distance in a norm."""
_VERDICTS = {
    (correct, broken, robust): ImageVerdict(clean_correct=correct, broken=broken, robust=robust)
    for correct in (False, True)
    for broken in (False, True)
    for robust in (False, True)
}
"""Every verdict, once: a run has millions of them."""


def build_cell_result(
    record: CellRecord,
    outcomes: Sequence[OutcomeRecord] | OutcomeColumns,
    signs: tuple[SignResult, ...] = (),
    labels: RunLabels | None = None,
    groups: Mapping[str, str] | None = None,
) -> CellResult:
    """Count a cell's outcomes and decide on its status.

    Args:
        record: The cell.
        outcomes: Its outcomes, or the columns of them in ``RESULT_COLUMNS``.
        signs: The results of its signs, if it is evaluated over views.
        labels: Labels of attacks and models.
        groups: Group of each image of the data; empty if the images are independent.
    """
    columns = outcomes if isinstance(outcomes, OutcomeColumns) else OutcomeColumns.from_records(outcomes)
    counts = count_columns(columns)
    standing, problem = _find_status(record, counts)
    done = standing == "done"
    seen = done or standing == "stopped"
    measured = done and record.measure == "distance" and record.knowledge not in {"transfer", "naive"}
    measured &= record.norm in _NORM_COLUMNS
    images, broken = columns["image"], columns["broken"]
    stages = zip(compress(images, broken), compress(columns["stage"], broken), strict=True)
    return CellResult(
        record=record,
        tally=counts,
        verdicts=_collect_verdicts(columns) if seen else {},
        reported_status=standing,
        problem=problem,
        labels=labels or RunLabels(),
        query_stats=_compute_query_stats(columns),
        radii=_collect_radii(columns, record) if measured else {},
        success_8bit=dict(
            zip(compress(images, broken), compress(columns["broken_8bit"], broken), strict=True)
        ),
        success_norms=_collect_norms(columns),
        predictions=_collect_predictions(columns) if done else {},
        certified_radii=_collect_certified_radii(columns, record),
        successful_stages={image: stage for image, stage in stages if stage},
        gradient_images=frozenset(compress(images, columns["gradient_steps"]) if seen else ()),
        useless_gradient_images=frozenset(compress(images, columns.has_missing_gradients) if seen else ()),
        draw_counts=_collect_draws(columns) if done else {},
        fixed_draw_successes=_collect_known(images, columns["broken_fixed_draw"]) if done else {},
        rejected_images=_collect_rejected(columns) if done else frozenset(),
        twin_verdicts=_collect_twin_verdicts(columns) if seen else {},
        signs=signs,
        groups=groups or {},
    )


def _collect_verdicts(columns: OutcomeColumns) -> dict[str, ImageVerdict]:
    marks = zip(columns["clean_correct"], columns["broken"], columns.robust, strict=True)
    return dict(zip(columns["image"], map(_VERDICTS.__getitem__, marks), strict=True))


def _collect_predictions(columns: OutcomeColumns) -> dict[str, ImagePrediction]:
    """Collect final predictions and labels; a rejected image does as little harm as a correct one."""
    labels, final = columns["label"], columns["adversarial_prediction"]
    if any(columns["abstained"]):
        parts = zip(columns["abstained"], columns["clean_correct"], labels, final, strict=True)
        final = [label if abstained and correct else last for abstained, correct, label, last in parts]
    pairs = list(zip(final, labels, strict=True))
    known = {pair: ImagePrediction(*pair) for pair in set(pairs)}
    return dict(zip(columns["image"], map(known.__getitem__, pairs), strict=True))


def _collect_radii(columns: OutcomeColumns, record: CellRecord) -> dict[str, float]:
    """Collect the distance of each adversarial example, at most eps: the harness tolerates rounding."""
    parts = zip(
        columns["image"],
        columns["broken"],
        columns.robust,
        columns[_NORM_COLUMNS[record.norm]],
        strict=True,
    )
    return {
        image: (min(size, record.eps) if math.isfinite(size) else 0.0)
        if broken
        else (math.inf if robust else 0.0)
        for image, broken, robust, size in parts
    }


def _collect_norms(columns: OutcomeColumns) -> SuccessNorms:
    """Collect the distance of each adversarial image from the original in each norm."""
    broken = columns["broken"]
    sizes = {norm: list(compress(columns[column], broken)) for norm, column in _NORM_COLUMNS.items()}
    return SuccessNorms(list(compress(columns["image"], broken)), sizes)


def _collect_certified_radii(columns: OutcomeColumns, record: CellRecord) -> dict[str, float]:
    """Collect the certified radii above 0; an image without a certificate has none."""
    if columns["certified"].count(None) == len(columns):
        return {}
    parts = zip(
        columns["image"], columns["clean_correct"], columns["certified"], columns["radius"], strict=True
    )
    radii = {
        image: max(radius or 0.0, record.eps if certified else 0.0)
        for image, correct, certified, radius in parts
        if correct and certified is not None
    }
    return {image: radius for image, radius in radii.items() if radius > 0}


def _collect_draws(columns: OutcomeColumns) -> dict[str, tuple[int, int]]:
    if not any(columns["draws"]):
        return {}
    parts = zip(
        columns["image"], columns["successful_draws"], columns["draws"], columns["clean_correct"], strict=True
    )
    return {image: (successful, draws) for image, successful, draws, correct in parts if draws and correct}


def _collect_known(images: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    if values.count(None) == len(values):
        return {}
    return {image: value for image, value in zip(images, values, strict=True) if value is not None}


def _collect_rejected(columns: OutcomeColumns) -> frozenset[str]:
    """Collect the images that the model rejects, clean or under attack if correctly classified clean."""
    if not any(columns["abstained"]):
        return frozenset()
    parts = zip(
        columns["image"], columns["abstained"], columns["clean_correct"], columns["status"], strict=True
    )
    return frozenset(
        image
        for image, abstained, correct, status in parts
        if abstained and (correct or status == "clean-wrong")
    )


_TWIN_COLUMNS = (
    "status",
    "clean_prediction",
    "adversarial_prediction",
    "twin_clean_prediction",
    "twin_clean_correct",
    "twin_prediction",
    "twin_broken",
    "clean_difference",
    "adversarial_difference",
    "twin_forward_passes",
    "twin_backward_passes",
    "search_phase",
)


def _collect_twin_verdicts(columns: OutcomeColumns) -> dict[str, TwinVerdict]:
    if columns["twin_clean_correct"].count(None) == len(columns):
        return {}
    rows = zip(*(columns[name] for name in _TWIN_COLUMNS), strict=True)
    verdicts = (build_twin_verdict(dict(zip(_TWIN_COLUMNS, row, strict=True))) for row in rows)
    return {
        image: verdict
        for image, verdict in zip(columns["image"], verdicts, strict=True)
        if verdict is not None
    }


def _find_status(record: CellRecord, counts: OutcomeCounts) -> tuple[ReportedStatus, str | None]:
    if record.status == "running":
        return "partial", f"stopped after {counts.n} of {format_count(record.images, 'image')}"
    if record.status not in {"done", "stopped"}:
        return "not run" if record.status == "pending" else record.status, record.error
    if counts.rejected and counts.rejected == counts.clean_correct:
        return "void", f"{_format_all(counts.rejected)} violated the threat model"
    if record.status == "stopped" and not counts.errors:
        return "stopped", record.error
    if counts.n != record.images:
        stored = f"{format_count(record.images, 'outcome')} {choose_form(counts.n, 'is', 'are')} stored"
        return "partial", f"only {counts.n} of {stored}"
    return "done", None


def _format_all(candidates: int) -> str:
    return "its only candidate" if candidates == 1 else f"all {format_count(candidates, 'candidate')}"


def _compute_query_stats(columns: OutcomeColumns) -> QueryStats:
    """Compute the forward passes of the attacked images, which are the correctly classified ones."""
    correct, broken = columns["clean_correct"], columns["broken"]
    passes = list(compress(columns["forward_passes"], correct))
    passes_of_broken = list(compress(passes, compress(broken, correct)))
    return QueryStats(
        median=median(passes) if passes else None,
        largest=max(passes, default=None),
        median_broken=median(passes_of_broken) if passes_of_broken else None,
        largest_broken=max(passes_of_broken, default=None),
    )
