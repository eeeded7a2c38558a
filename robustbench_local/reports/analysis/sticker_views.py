"""Every look at a sign, as numbers: what was read in each view, with and without the sticker."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from robustbench_local.reports.formatting.text import private
from robustbench_local.statistics import Estimate, clopper_pearson
from robustbench_local.store import (
    CellRecord,
    OutcomeRecord,
    RunStore,
    SightingRecord,
    ViewKind,
    ViewRecord,
)

NOT_FINITE = -1
"""Stands for the class of an answer that is not finite."""

Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]
Classes = npt.NDArray[np.int64]
SignStanding = Literal["counted", "void", "clean-wrong", "error"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Looks:
    """What was read of one sign in all its views of one kind; every array has an entry a view."""

    label: int
    """The true class."""
    predictions: Mapping[str, Classes]
    """Condition -> class that was read, ``NOT_FINITE`` where there was no finite answer."""
    barred: frozenset[str]
    """Controls that broke a rule on this sign, so that nothing was read."""
    confidences: Mapping[str, Numbers]
    """Condition -> softmax probability of that class; NaN where there was no finite answer."""
    distance: Numbers
    """Size of the sign as the camera resolves it, in pixels."""
    yaw: Numbers
    """Angle from the side, in degrees."""
    pitch: Numbers
    """Angle from above or below, in degrees."""

    @property
    def obliqueness(self) -> Numbers:
        """Angle between the line of sight and the perpendicular of the sign, in degrees."""
        cosine = np.cos(np.radians(self.yaw)) * np.cos(np.radians(self.pitch))
        return np.asarray(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))

    @property
    def right(self) -> Flags:
        """In which views the clean sign is read rightly: only in these can a sticker succeed."""
        return np.asarray(self.predictions["clean"] == self.label)

    def read_as(self, condition: str) -> Classes:
        """Classes read in the views in which the clean sign is read rightly; none if it was not looked at."""
        found = self.predictions.get(condition)
        return np.zeros(0, dtype=np.int64) if found is None else found[self.right]

    def hits(self, condition: str, targets: Collection[int]) -> Flags:
        """Which views ended as the attacker wants, among those in which the clean sign is read rightly.

        Args:
            condition: What the sign has on it.
            targets: Classes the attacker wants; empty: any wrong one.
        """
        return reached(self.read_as(condition), self.label, targets)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sign:
    """One image of a cell whose candidates were judged over views."""

    image: str
    """Its id."""
    position: int
    """Its place in the cell."""
    label: int
    """The true class."""
    standing: SignStanding
    """``counted``, or why nothing follows from it."""
    problem: str | None
    """What went wrong, in one line; a sign whose sticker broke a rule counts, as one that held, and so does
    one whose control broke a rule."""
    broken: bool
    """Most of the views end as the attacker wants."""
    looks: Mapping[ViewKind, Looks] = field(repr=False)
    """What was read in its test views and on the drive-by; empty for an image that could not be evaluated."""

    @property
    def counted(self) -> bool:
        """Whether its views count."""
        return self.standing == "counted"

    @property
    def seen(self) -> bool:
        """Whether it was looked at in its test views."""
        return "view" in self.looks

    @property
    def clean(self) -> Estimate:
        """Share of the test views in which the clean sign is read rightly."""
        return share([self.looks["view"].right] if self.seen else [])


def turned(signs: Iterable[Sign], condition: str, targets: Collection[int]) -> Estimate:
    """The share of the signs' test views that end as the attacker wants.

    Args:
        signs: Void ones or not; those that were not looked at under this condition have no part in it.
        condition: What they have on them.
        targets: Classes the attacker wants; empty: any wrong one.
    """
    return share(looks.hits(condition, targets) for looks in _under(signs, condition))


def dodged(signs: Iterable[Sign], condition: str) -> Estimate:
    """The share of the signs' test views in which they are read as anything but what they are."""
    return share(looks.read_as(condition) != looks.label for looks in _under(signs, condition))


def _under(signs: Iterable[Sign], condition: str) -> Iterator[Looks]:
    """The test views of the signs that were looked at under a condition."""
    seen = (sign.looks["view"] for sign in signs if sign.seen)
    return (looks for looks in seen if condition in looks.predictions)


def reached(classes: Classes, label: int, targets: Collection[int]) -> Flags:
    """Which readings are what the attacker wants; an answer that is not finite never is."""
    wrong = (classes != label) & (classes != NOT_FINITE)
    return np.asarray(wrong & np.isin(classes, list(targets)) if targets else wrong)


def share(marks: Iterable[Flags]) -> Estimate:
    """The share of all marks that are true, with its interval; unknown if there are none."""
    every = list(marks)
    return clopper_pearson(sum(int(one.sum()) for one in every), sum(len(one) for one in every))


def read_signs(store: RunStore, record: CellRecord, outcomes: Sequence[OutcomeRecord]) -> tuple[Sign, ...]:
    """The looks of a cell, sign by sign; none if the cell is not about views."""
    if record.measure != "views":
        return ()
    sightings = _grouped(store.sightings(record.key))
    views = {(view.position, view.kind): view for view in store.views(record.key)}
    return tuple(_sign(row, sightings, views) for row in outcomes)


def _grouped(records: Iterable[SightingRecord]) -> dict[tuple[int, ViewKind], list[SightingRecord]]:
    found: dict[tuple[int, ViewKind], list[SightingRecord]] = {}
    for record in records:
        found.setdefault((record.position, record.kind), []).append(record)
    return found


def _sign(
    row: OutcomeRecord,
    sightings: Mapping[tuple[int, ViewKind], Sequence[SightingRecord]],
    views: Mapping[tuple[int, ViewKind], ViewRecord],
) -> Sign:
    kinds: tuple[ViewKind, ...] = ("view", "approach")
    looks = {
        kind: _looks(row.label, sightings[row.position, kind], views[row.position, kind])
        for kind in kinds
        if (row.position, kind) in sightings
    }
    return Sign(
        image=private(row.image),
        position=row.position,
        label=row.label,
        standing=_standing(row),
        problem=private(row.error),
        broken=row.broken,
        looks=looks,
    )


def _standing(row: OutcomeRecord) -> SignStanding:
    others: dict[str, SignStanding] = {"void": "void", "error": "error"}
    return others.get(row.status, "counted" if row.clean_correct else "clean-wrong")


def _looks(label: int, sightings: Sequence[SightingRecord], view: ViewRecord) -> Looks:
    seen = [one for one in sightings if one.predictions]
    return Looks(
        label=label,
        predictions={one.condition: _classes(one.predictions) for one in seen},
        barred=frozenset(one.condition for one in sightings if not one.predictions),
        confidences={one.condition: _numbers(one.confidences) for one in seen},
        distance=_numbers(view.distance),
        yaw=_numbers(view.yaw),
        pitch=_numbers(view.pitch),
    )


def _classes(values: Sequence[int | None]) -> Classes:
    return np.array([NOT_FINITE if value is None else value for value in values], dtype=np.int64)


def _numbers(values: Sequence[Any]) -> Numbers:
    return np.array(values, dtype=np.float64)  # None becomes NaN
