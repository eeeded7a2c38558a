"""View predictions as rows: one per sign, condition and view."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from robustbench_local.store.records import ViewPredictionsRecord, ViewRecord

STICKER_VIEW_COLUMNS = (
    "position",
    "condition",
    "kind",
    "number",
    "prediction",
    "confidence",
    "distance",
    "yaw",
    "pitch",
    "roll",
)


def iterate_sticker_view_rows(
    predictions: Iterable[ViewPredictionsRecord], views: Iterable[ViewRecord]
) -> Iterator[dict[str, Any]]:
    """Yield a row per view, with ``STICKER_VIEW_COLUMNS``; none for a control that broke a rule.

    Args:
        predictions: The predictions.
        views: The views of the predictions.
    """
    views_by_key = {(view.position, view.kind): view for view in views}
    for record in (entry for entry in predictions if entry.predictions):
        view = views_by_key[record.position, record.kind]
        series = (record.predictions, record.confidences, view.distance, view.yaw, view.pitch, view.roll)
        key = (record.position, record.condition, record.kind)
        for number, values in enumerate(zip(*series, strict=True)):
            yield dict(zip(STICKER_VIEW_COLUMNS, (*key, number, *values), strict=True))
