"""Looks at signs as rows: one for each sign, condition and view."""

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
    """One row a look, with ``STICKER_VIEW_COLUMNS``; none of a control that broke a rule.

    Args:
        predictions: What was read.
        views: The views in which it was read.
    """
    places = {(view.position, view.kind): view for view in views}
    for seen in (one for one in predictions if one.predictions):
        view = places[seen.position, seen.kind]
        series = (seen.predictions, seen.confidences, view.distance, view.yaw, view.pitch, view.roll)
        head = (seen.position, seen.condition, seen.kind)
        for number, values in enumerate(zip(*series, strict=True)):
            yield dict(zip(STICKER_VIEW_COLUMNS, (*head, number, *values), strict=True))
