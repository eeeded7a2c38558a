"""The outcomes of a cell by column: a large run has too many images for an object each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from robustbench_local.store.record_rows import (
    DISTANCE_COLUMNS,
    FLAG_COLUMNS,
    OPTIONAL_FLAG_COLUMNS,
    OUTCOME_COLUMNS,
)
from robustbench_local.store.records import MISSING_GRADIENT_SHARE, OutcomeCounts, OutcomeRecord

_FLAG_VALUES = {None: None, 0: False, 1: True}


class OutcomeColumns:
    """Some columns of a cell's outcomes, each with one value per image, in the order of positions.

    Args:
        columns: Name of a field of `OutcomeRecord` -> its values, as the record has them.
        count: Number of images.
    """

    def __init__(self, columns: Mapping[str, Sequence[Any]], count: int) -> None:
        self._columns, self._count = columns, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, name: str) -> Sequence[Any]:
        """Return the values of a field, one per image."""
        return self._columns[name]

    @classmethod
    def from_records(cls, outcomes: Iterable[OutcomeRecord]) -> OutcomeColumns:
        """Return all columns of these outcomes."""
        rows = list(outcomes)
        return cls({name: [getattr(row, name) for row in rows] for name in OUTCOME_COLUMNS}, len(rows))

    @classmethod
    def from_database(
        cls, names: Sequence[str], values: Sequence[Sequence[Any]], known_images: dict[str, str]
    ) -> OutcomeColumns:
        """Return columns of the database.

        Args:
            names: Names of the columns.
            values: The stored values of each column.
            known_images: Ids of images met so far, which all cells of a run share; new ones are added.
        """
        columns = {name: _convert_column(name, column) for name, column in zip(names, values, strict=True)}
        if "image" in columns:
            columns["image"] = [known_images.setdefault(image, image) for image in columns["image"]]
        return cls(columns, len(values[0]))

    @property
    def robust(self) -> list[bool]:
        """Whether each image is robust, by ``ROBUST_COLUMNS``; a failed certificate means that it is not."""
        parts = zip(self["clean_correct"], self["broken"], self["status"], self["certified"], strict=True)
        return [
            correct and not broken and status != "error" and certified is not False
            for correct, broken, status, certified in parts
        ]

    @property
    def has_missing_gradients(self) -> list[bool]:
        """Whether half or more of the gradients of each image were zero or unconfirmed."""
        zero, unconfirmed = self["zero_gradient_steps"], self["unconfirmed_gradient_steps"]
        if not (any(zero) or any(unconfirmed)):
            return [False] * len(self)
        return [
            0 < before + after >= MISSING_GRADIENT_SHARE * steps
            for before, after, steps in zip(zero, unconfirmed, self["gradient_steps"], strict=True)
        ]


ROBUST_COLUMNS = ("clean_correct", "broken", "status", "certified")
"""The columns that decide whether an image is robust."""
COUNTED_COLUMNS = (
    "clean_correct",
    "broken",
    "broken_8bit",
    "moved_elsewhere",
    "fragile",
    "status",
    "forward_passes",
    "backward_passes",
    "seconds",
    "certified",
    "abstained",
    "gradient_steps",
    "nonfinite_gradient_steps",
    "zero_gradient_steps",
    "unconfirmed_gradient_steps",
)
"""The columns that `count_columns` needs."""


def count_columns(columns: OutcomeColumns) -> OutcomeCounts:
    """Count outcomes as `count_outcomes` does, with the same result to the last digit."""
    correct, abstained, status = columns["clean_correct"], columns["abstained"], columns["status"]
    rejected = [index for index, mark in enumerate(abstained) if mark]
    return OutcomeCounts(
        n=len(columns),
        clean_correct=sum(correct),
        broken=sum(columns["broken"]),
        robust=sum(columns.robust),
        broken_8bit=columns["broken_8bit"].count(True),
        moved_elsewhere=sum(columns["moved_elsewhere"]),
        fragile=sum(columns["fragile"]),
        rejected=status.count("rejected"),
        non_finite=status.count("non-finite"),
        errors=status.count("error"),
        forward_passes=sum(columns["forward_passes"]),
        backward_passes=sum(columns["backward_passes"]),
        seconds=math.fsum(columns["seconds"]),
        certified=columns["certified"].count(True),
        abstained=len(rejected),
        nonfinite_gradients=len(columns) - columns["nonfinite_gradient_steps"].count(0),
        rejected_clean=sum(status[index] == "clean-wrong" for index in rejected),
        rejected_adversarial=sum(correct[index] for index in rejected),
        missing_gradients=sum(columns.has_missing_gradients),
    )


def _convert_column(name: str, values: Sequence[Any]) -> Sequence[Any]:
    """Convert a database column to the values of the record's field."""
    if name in FLAG_COLUMNS or name in OPTIONAL_FLAG_COLUMNS:
        return list(map(_FLAG_VALUES.__getitem__, values))
    if name in DISTANCE_COLUMNS and None in values:
        return [math.nan if value is None else value for value in values]
    return values
