"""The CSV files of a report, safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.class_results import ClassTable, build_class_tables
from robustbench_local.reports.analysis.distances import compute_attack_distances, measures_distance
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.resubmission import TABLE_TRIES, build_resubmission_curves
from robustbench_local.reports.analysis.trust import list_cell_distrust
from robustbench_local.reports.analysis.twin_results import build_twin_results
from robustbench_local.reports.writers.outcome_table import escape_field, identify_cell
from robustbench_local.statistics import Estimate, compute_clopper_pearson
from robustbench_local.store import RunStore
from robustbench_local.store.view_rows import STICKER_VIEW_COLUMNS, iterate_sticker_view_rows

VIEW_CSV_COLUMNS = (
    "model",
    "defense",
    "attack",
    "attack_label",
    "image",
    "label",
    "counted",
    *STICKER_VIEW_COLUMNS,
    "prediction_name",
)
"""Columns of sticker_views.csv: the cell, the sign and one view of it."""
CLASS_COLUMNS = (
    "model",
    "defense",
    "threat",
    "attack",
    "class",
    "class_name",
    "n",
    *(f"{share}{end}" for share in ("clean_accuracy", "robust_accuracy") for end in ("", "_low", "_high")),
    "groups",
)
"""Columns of classes.csv: one class under one attack, or in the worst case over attacks."""
CONFUSION_COLUMNS = (
    "model",
    "defense",
    "threat",
    "attack",
    "class",
    "class_name",
    "predicted_class",
    "predicted_class_name",
    "count",
    "n",
)
"""Columns of confusions.csv: one entry of the confusion matrix under the strongest attack."""
WORST_CASE_NAME = "worst case"
"""Name in the column ``attack`` of the worst case over attacks."""


def format_results_csv(evidence: Evidence) -> str:
    """Format one row per cell; unknown shares are empty."""
    rows = [_build_cell_row(cell, evidence) for cell in evidence.cells]
    return _format_csv(rows, columns=rows[0] if rows else ())


def format_sticker_views_csv(store: RunStore, evidence: Evidence) -> str:
    """Format one row per view of a sign with or without sticker; no rows if no cell is about views."""
    return _format_csv(_iterate_view_rows(store, evidence), columns=VIEW_CSV_COLUMNS)


def format_classes_csv(evidence: Evidence) -> str:
    """Format one row per model, threat model, attack and class; the worst case over attacks comes first."""
    return _format_csv(_iterate_class_rows(evidence), columns=CLASS_COLUMNS)


def format_confusions_csv(evidence: Evidence) -> str:
    """Format one row per true and predicted class under the strongest attack of each threat model."""
    return _format_csv(_iterate_confusion_rows(evidence), columns=CONFUSION_COLUMNS)


def _iterate_class_rows(evidence: Evidence) -> Iterator[dict[str, Any]]:
    for table in build_class_tables(evidence):
        names = [WORST_CASE_NAME, *(cell.record.attack for cell in table.attacks)]
        for row in table.rows:
            shares = [row.robust_accuracy, *row.attack_accuracies]
            for name, share in zip(names, shares, strict=True):
                yield {
                    **_identify_class(table, name, row.label, row.name),
                    "n": share.n,
                    **_build_share_columns("clean_accuracy", row.clean_accuracy),
                    **_build_share_columns("robust_accuracy", share),
                    "groups": share.groups or None,
                }


def _iterate_confusion_rows(evidence: Evidence) -> Iterator[dict[str, Any]]:
    for table in build_class_tables(evidence):
        matrix = table.matrix
        names, sizes = dict(matrix.classes), matrix.class_sizes
        for (label, final), count in matrix.counts.items():
            yield {
                **_identify_class(table, matrix.attack, label, names[label]),
                "predicted_class": final,
                "predicted_class_name": names[final],
                "count": count,
                "n": sizes[label],
            }


def _identify_class(table: ClassTable, attack: str, label: int, name: str) -> dict[str, Any]:
    return {
        "model": table.subject.model,
        "defense": table.subject.defense,
        "threat": table.threat.name,
        "attack": attack,
        "class": label,
        "class_name": name,
    }


def _iterate_view_rows(store: RunStore, evidence: Evidence) -> Iterator[dict[str, Any]]:
    for cell in evidence.cells:
        model = cell.record.model
        about = identify_cell(cell)
        signs = {sign.position: sign for sign in cell.signs}
        for look in iterate_sticker_view_rows(
            store.read_view_predictions(cell.record.key), store.read_views(cell.record.key)
        ):
            sign = signs[look["position"]]
            names = {"image": sign.image, "label": sign.label, "counted": sign.is_counted}
            names["prediction_name"] = evidence.get_class_name(model, look["prediction"])
            yield about | look | names


def _build_cell_row(cell: CellResult, evidence: Evidence) -> dict[str, Any]:
    record, counts = cell.record, cell.tally
    return {
        **identify_cell(cell),
        "card": record.card,
        "threat": record.threat,
        "norm": record.norm,
        "eps": record.eps,
        "goal": record.goal,
        "targets": "; ".join(evidence.get_class_name(record.model, target) for target in record.targets),
        "sources": "; ".join(evidence.get_class_name(record.model, source) for source in record.sources),
        "status": cell.reported_status,
        "error": cell.problem,
        "images": record.images,
        "excluded": record.excluded,
        "n": counts.n,
        **_build_share_columns("clean_accuracy", cell.clean_accuracy),
        **_build_share_columns("robust_accuracy", cell.robust_accuracy),
        **_build_share_columns("attack_success", cell.attack_success),
        **_build_share_columns("attack_success_8bit", cell.attack_success_8bit),
        **_build_share_columns("certified_accuracy", cell.certified_accuracy),
        **_build_share_columns("sticker_success", cell.sticker_success),
        "clean_correct": counts.clean_correct,
        "broken": counts.broken,
        "moved_elsewhere": counts.moved_elsewhere,
        "fragile": counts.fragile,
        "rejected": counts.rejected,
        "non_finite": counts.non_finite,
        "errors": counts.errors,
        "certified": counts.certified if cell.is_certificate else None,
        "abstained": counts.abstained if cell.is_certificate else None,
        "forward_passes": counts.forward_passes,
        "backward_passes": counts.backward_passes,
        "seconds": counts.seconds,
        "note": record.note,
        "key": record.key,
        "distrust": " ".join(list_cell_distrust(evidence, cell)),
        "knowledge": record.knowledge,
        "surrogate": record.surrogate,
        "measure": record.measure,
        "concerns": record.concerns if cell.is_certificate else None,
        "alpha": record.alpha if cell.is_certificate else None,
        **{f"forward_passes_{name}": value for name, value in cell.query_stats._asdict().items()},
        **_build_distance_columns(cell),
        "rejected_clean": counts.rejected_clean,
        "rejected_adversarial": counts.rejected_adversarial,
        **_build_draw_columns(cell, evidence),
        **_build_twin_columns(cell, evidence),
    }


def _build_twin_columns(cell: CellResult, evidence: Evidence) -> dict[str, float | str | int | None]:
    """Return the float twin and what it withstands; empty without one."""
    results = {result.cell.record.key: result for result in build_twin_results(evidence)}
    result, unknown = results.get(cell.record.key), compute_clopper_pearson(0, 0)
    return {
        "twin": cell.record.twin,
        **_build_share_columns("twin_robust_accuracy", result.twin_robust if result else unknown),
        "only_model_lost": len(result.only_model_lost) if result else None,
        "only_twin_lost": len(result.only_twin_lost) if result else None,
        "twin_forward_passes": result.twin_passes[0] if result else None,
        "twin_backward_passes": result.twin_passes[1] if result else None,
    }


def _build_draw_columns(cell: CellResult, evidence: Evidence) -> dict[str, float | int | None]:
    """Return the success of repeated submissions; empty where answers are not random.

    Where N exceeds the draws, there is an interval without a value.
    """
    curves = {curve.cell.record.key: curve for curve in build_resubmission_curves(evidence)}
    curve, unknown = curves.get(cell.record.key), compute_clopper_pearson(0, 0)
    columns: dict[str, float | int | None] = {"draws": curve.draws if curve else None}
    points = {point.tries: point for point in curve.table_points} if curve else {}
    for tries in TABLE_TRIES:
        name, point = f"resubmission_success_{tries}", points.get(tries)
        columns |= _build_share_columns(name, point.success if point else unknown)
        columns[name] = None if point is None or point.is_bound else point.success.value
    fixed = curve.fixed_draw_accuracy if curve else unknown
    return columns | _build_share_columns("fixed_draw_accuracy", fixed)


def _build_distance_columns(cell: CellResult) -> dict[str, float | int | None]:
    """Return distance quartiles, empty where infinite, and ``unbroken``, the count of robust images."""
    names = ("distance_lower", "distance_median", "distance_upper", "unbroken")
    if not (cell.is_done and measures_distance(cell)):
        return dict.fromkeys(names)
    distances = compute_attack_distances(cell)
    quartiles = distances.quartiles
    return dict(
        zip(
            names, (quartiles.lower, quartiles.median, quartiles.upper, distances.unbroken_count), strict=True
        )
    )


def _build_share_columns(name: str, estimate: Estimate) -> dict[str, float | None]:
    known = estimate.is_known
    return {
        name: estimate.value if known else None,
        f"{name}_low": estimate.low if known else None,
        f"{name}_high": estimate.high if known else None,
    }


def _format_csv(rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> str:
    names = list(columns)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([escape_field(row[name]) for name in names] for row in rows)
    return text.getvalue()
