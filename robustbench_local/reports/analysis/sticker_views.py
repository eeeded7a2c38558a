"""Predictions of each view of a sign, with and without the sticker.

The functions import numpy when they compute: a run without stickers does not need it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from robustbench_local.cluster_statistics import Groups, estimate_clustered_share
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

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    BoolArray = npt.NDArray[np.bool_]
    FloatArray = npt.NDArray[np.float64]
    ClassArray = npt.NDArray[np.int64]

NONFINITE_CLASS = -1
"""Class index of an output that is not finite."""

SignStatus = Literal["counted", "void", "clean-wrong", "error"]


@dataclass(frozen=True, kw_only=True, eq=False)
class SignViews:
    """Predictions of one sign in all views of one kind; every array has an entry per view."""

    label: int
    """The true class."""
    predictions: Mapping[str, ClassArray]
    """Condition -> predicted class, ``NONFINITE_CLASS`` without a finite output."""
    invalid_controls: frozenset[str]
    """Controls that violated a rule on this sign and have no predictions."""
    confidences: Mapping[str, FloatArray]
    """Condition -> softmax probability of that class; NaN without a finite output."""
    size_pixels: FloatArray
    """Size of the sign at the camera's resolution, in pixels."""
    yaw: FloatArray
    """Angle from the side, in degrees."""
    pitch: FloatArray
    """Angle from above or below, in degrees."""

    @property
    def angle_degrees(self) -> FloatArray:
        """Angle between the line of sight and the perpendicular of the sign, in degrees."""
        import numpy as np  # noqa: PLC0415 - see the module

        cosine = np.cos(np.radians(self.yaw)) * np.cos(np.radians(self.pitch))
        return np.asarray(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))

    @property
    def clean_correct(self) -> BoolArray:
        """Mask of the views in which the clean sign is classified correctly; only these count."""
        import numpy as np  # noqa: PLC0415 - see the module

        return np.asarray(self.predictions["clean"] == self.label)

    def select_predictions(self, condition: str) -> ClassArray:
        """Select predictions in the views in which the clean sign is classified correctly."""
        import numpy as np  # noqa: PLC0415 - see the module

        predictions = self.predictions.get(condition)
        return np.zeros(0, dtype=np.int64) if predictions is None else predictions[self.clean_correct]

    def mark_successes(self, condition: str, targets: Collection[int]) -> BoolArray:
        """Mark successes among the views in which the clean sign is classified correctly.

        Args:
            condition: Condition of the sign, e.g. ``sticker``.
            targets: Target classes; empty: any wrong class.
        """
        return mark_successes(self.select_predictions(condition), self.label, targets)


@dataclass(frozen=True, kw_only=True, eq=False)
class SignResult:
    """One image of a cell that is evaluated over views."""

    image: str
    """Its id."""
    position: int
    """Its index in the cell."""
    label: int
    """The true class."""
    status: SignStatus
    """``counted``, or why it is excluded."""
    problem: str | None
    """The problem in one line. A sign whose sticker violated a rule counts as robust; one whose control
    did so counts as well."""
    broken: bool
    """Whether the attack succeeds in most of the views."""
    views: Mapping[ViewKind, SignViews] = field(repr=False)
    """Predictions in its test views and on the drive-by; empty if it could not be evaluated."""

    @property
    def is_counted(self) -> bool:
        """Whether its views are counted."""
        return self.status == "counted"

    @property
    def has_views(self) -> bool:
        """Whether it was evaluated in its test views."""
        return "view" in self.views

    @property
    def clean_accuracy(self) -> Estimate:
        """Share of the test views in which the clean sign is classified correctly."""
        return estimate_share([self.views["view"].clean_correct] if self.has_views else [])


def compute_attack_success(signs: Iterable[SignResult], condition: str, targets: Collection[int]) -> Estimate:
    """Compute the share of the signs' test views in which the attack succeeds.

    Args:
        signs: Signs, void ones included; those without this condition are ignored.
        condition: Condition of the signs, e.g. ``sticker``.
        targets: Target classes; empty: any wrong class.
    """
    return estimate_share(
        sign_views.mark_successes(condition, targets) for sign_views in _iterate_views(signs, condition)
    )


def estimate_success_over_signs(
    signs: Iterable[SignResult], condition: str, targets: Collection[int], groups: Groups
) -> Estimate:
    """Compute the same share with an interval that covers further signs, of which these are a sample.

    Views of one sign are alike; the interval of `compute_attack_success` covers further views of these signs
    only. Photographs of one sign, a group of the data, count as one sign.
    """
    successes: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for sign in signs:
        for sign_views in _iterate_views([sign], condition):
            marks = sign_views.mark_successes(condition, targets)
            successes[groups.get(sign.image, sign.image)] += int(marks.sum())
            sizes[groups.get(sign.image, sign.image)] += len(marks)
    return estimate_clustered_share([successes[group] for group in sizes], list(sizes.values()))


def compute_misread_rate(signs: Iterable[SignResult], condition: str) -> Estimate:
    """Compute the share of the signs' test views in which they are misclassified."""
    return estimate_share(
        sign_views.select_predictions(condition) != sign_views.label
        for sign_views in _iterate_views(signs, condition)
    )


def _iterate_views(signs: Iterable[SignResult], condition: str) -> Iterator[SignViews]:
    """Iterate over the test views of the signs that have this condition."""
    all_views = (sign.views["view"] for sign in signs if sign.has_views)
    return (sign_views for sign_views in all_views if condition in sign_views.predictions)


def mark_successes(classes: ClassArray, label: int, targets: Collection[int]) -> BoolArray:
    """Mark predictions that are a success of the attack; an output that is not finite never is."""
    import numpy as np  # noqa: PLC0415 - see the module

    wrong = (classes != label) & (classes != NONFINITE_CLASS)
    return np.asarray(wrong & np.isin(classes, list(targets)) if targets else wrong)


def estimate_share(marks: Iterable[BoolArray]) -> Estimate:
    """Estimate the share of true marks, with its interval; unknown without marks."""
    arrays = list(marks)
    return compute_clopper_pearson(sum(int(array.sum()) for array in arrays), sum(map(len, arrays)))


def read_signs(store: RunStore, record: CellRecord) -> tuple[SignResult, ...]:
    """Return the results of a cell, one per sign; none if the cell is not evaluated over views."""
    if record.measure != "views":
        return ()
    predictions = _group_records(store.read_view_predictions(record.key))
    views = {(view.position, view.kind): view for view in store.read_views(record.key)}
    return tuple(_build_sign(row, predictions, views) for row in store.read_outcomes(record.key))


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
    import numpy as np  # noqa: PLC0415 - see the module

    return np.array([NONFINITE_CLASS if value is None else value for value in values], dtype=np.int64)


def _build_float_array(values: Sequence[Any]) -> FloatArray:
    import numpy as np  # noqa: PLC0415 - see the module

    return np.array(values, dtype=np.float64)  # None becomes NaN
