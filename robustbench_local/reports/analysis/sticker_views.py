"""Every look at a sign, as numbers: what was read in each view, with and without the sticker."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from robustbench_local.reports.formatting.text import redact_private_data
from robustbench_local.statistics import Estimate, compute_clopper_pearson
from robustbench_local.store import (
    CellRecord,
    OutcomeRecord,
    RunStore,
    ViewKind,
    ViewPredictionsRecord,
    ViewRecord,
)

NONFINITE_CLASS = -1
"""Stands for the class of an answer that is not finite."""

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
ClassArray = npt.NDArray[np.int64]
SignStatus = Literal["counted", "void", "clean-wrong", "error"]


@dataclass(frozen=True, kw_only=True, eq=False)
class SignViews:
    """What was read of one sign in all its views of one kind; every array has an entry a view."""

    label: int
    """The true class."""
    predictions: Mapping[str, ClassArray]
    """Condition -> class that was read, ``NONFINITE_CLASS`` where there was no finite answer."""
    invalid_controls: frozenset[str]
    """Controls that broke a rule on this sign, so that nothing was read."""
    confidences: Mapping[str, FloatArray]
    """Condition -> softmax probability of that class; NaN where there was no finite answer."""
    size_pixels: FloatArray
    """Size of the sign as the camera resolves it, in pixels."""
    yaw: FloatArray
    """Angle from the side, in degrees."""
    pitch: FloatArray
    """Angle from above or below, in degrees."""

    @property
    def angle_degrees(self) -> FloatArray:
        """Angle between the line of sight and the perpendicular of the sign, in degrees."""
        cosine = np.cos(np.radians(self.yaw)) * np.cos(np.radians(self.pitch))
        return np.asarray(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))

    @property
    def clean_correct(self) -> BoolArray:
        """In which views the clean sign is classified correctly: only in these can a sticker succeed."""
        return np.asarray(self.predictions["clean"] == self.label)

    def select_predictions(self, condition: str) -> ClassArray:
        """Predictions in the views in which the clean sign is classified correctly; none without views."""
        predictions = self.predictions.get(condition)
        return np.zeros(0, dtype=np.int64) if predictions is None else predictions[self.clean_correct]

    def mark_successes(self, condition: str, targets: Collection[int]) -> BoolArray:
        """Which views are successful, among those in which the clean sign is classified correctly.

        Args:
            condition: What the sign has on it.
            targets: Classes the attacker wants; empty: any wrong one.
        """
        return mark_successes(self.select_predictions(condition), self.label, targets)


@dataclass(frozen=True, kw_only=True, eq=False)
class SignResult:
    """One image of a cell whose candidates were judged over views."""

    image: str
    """Its id."""
    position: int
    """Its place in the cell."""
    label: int
    """The true class."""
    status: SignStatus
    """``counted``, or why nothing follows from it."""
    problem: str | None
    """What went wrong, in one line; a sign whose sticker broke a rule counts, as one that held, and so does
    one whose control broke a rule."""
    broken: bool
    """Most of the views end as the attacker wants."""
    views: Mapping[ViewKind, SignViews] = field(repr=False)
    """What was read in its test views and on the drive-by; empty for an image that could not be evaluated."""

    @property
    def is_counted(self) -> bool:
        """Whether its views count."""
        return self.status == "counted"

    @property
    def has_views(self) -> bool:
        """Whether it was looked at in its test views."""
        return "view" in self.views

    @property
    def clean_accuracy(self) -> Estimate:
        """Share of the test views in which the clean sign is classified correctly."""
        return estimate_share([self.views["view"].clean_correct] if self.has_views else [])


def compute_attack_success(signs: Iterable[SignResult], condition: str, targets: Collection[int]) -> Estimate:
    """The share of the signs' test views that end as the attacker wants.

    Args:
        signs: Void ones or not; those that were not looked at under this condition have no part in it.
        condition: What they have on them.
        targets: Classes the attacker wants; empty: any wrong one.
    """
    return estimate_share(
        sign_views.mark_successes(condition, targets) for sign_views in _iterate_views(signs, condition)
    )


def compute_misread_rate(signs: Iterable[SignResult], condition: str) -> Estimate:
    """The share of the signs' test views in which they are misclassified."""
    return estimate_share(
        sign_views.select_predictions(condition) != sign_views.label
        for sign_views in _iterate_views(signs, condition)
    )


def _iterate_views(signs: Iterable[SignResult], condition: str) -> Iterator[SignViews]:
    """The test views of the signs that were looked at under a condition."""
    all_views = (sign.views["view"] for sign in signs if sign.has_views)
    return (sign_views for sign_views in all_views if condition in sign_views.predictions)


def mark_successes(classes: ClassArray, label: int, targets: Collection[int]) -> BoolArray:
    """Which readings are what the attacker wants; an answer that is not finite never is."""
    wrong = (classes != label) & (classes != NONFINITE_CLASS)
    return np.asarray(wrong & np.isin(classes, list(targets)) if targets else wrong)


def estimate_share(marks: Iterable[BoolArray]) -> Estimate:
    """The share of all marks that are true, with its interval; unknown if there are none."""
    arrays = list(marks)
    return compute_clopper_pearson(sum(int(array.sum()) for array in arrays), sum(map(len, arrays)))


def read_signs(
    store: RunStore, record: CellRecord, outcomes: Sequence[OutcomeRecord]
) -> tuple[SignResult, ...]:
    """Return the results of a cell, one a sign; none if the cell is not evaluated over views."""
    if record.measure != "views":
        return ()
    predictions = _group_records(store.read_view_predictions(record.key))
    views = {(view.position, view.kind): view for view in store.read_views(record.key)}
    return tuple(_build_sign(row, predictions, views) for row in outcomes)


def _group_records(
    records: Iterable[ViewPredictionsRecord],
) -> dict[tuple[int, ViewKind], list[ViewPredictionsRecord]]:
    groups: dict[tuple[int, ViewKind], list[ViewPredictionsRecord]] = {}
    for record in records:
        groups.setdefault((record.position, record.kind), []).append(record)
    return groups


def _build_sign(
    row: OutcomeRecord,
    predictions: Mapping[tuple[int, ViewKind], Sequence[ViewPredictionsRecord]],
    views: Mapping[tuple[int, ViewKind], ViewRecord],
) -> SignResult:
    kinds: tuple[ViewKind, ...] = ("view", "approach")
    views_by_kind = {
        kind: _build_views(row.label, predictions[row.position, kind], views[row.position, kind])
        for kind in kinds
        if (row.position, kind) in predictions
    }
    return SignResult(
        image=redact_private_data(row.image),
        position=row.position,
        label=row.label,
        status=_find_sign_status(row),
        problem=redact_private_data(row.error),
        broken=row.broken,
        views=views_by_kind,
    )


def _find_sign_status(row: OutcomeRecord) -> SignStatus:
    others: dict[str, SignStatus] = {"void": "void", "error": "error"}
    return others.get(row.status, "counted" if row.clean_correct else "clean-wrong")


def _build_views(label: int, records: Sequence[ViewPredictionsRecord], view: ViewRecord) -> SignViews:
    valid_records = [record for record in records if record.predictions]
    return SignViews(
        label=label,
        predictions={record.condition: _build_class_array(record.predictions) for record in valid_records},
        invalid_controls=frozenset(record.condition for record in records if not record.predictions),
        confidences={record.condition: _build_float_array(record.confidences) for record in valid_records},
        size_pixels=_build_float_array(view.distance),
        yaw=_build_float_array(view.yaw),
        pitch=_build_float_array(view.pitch),
    )


def _build_class_array(values: Sequence[int | None]) -> ClassArray:
    return np.array([NONFINITE_CLASS if value is None else value for value in values], dtype=np.int64)


def _build_float_array(values: Sequence[Any]) -> FloatArray:
    return np.array(values, dtype=np.float64)  # None becomes NaN
