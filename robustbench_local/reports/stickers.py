"""Stickers and patches: how often a sign is misread over held-out views, and the controls beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from robustbench_local.reports.evidence import CellResult, Evidence, Subject
from robustbench_local.reports.severity import Severity, SeverityTable, severity_table, weigh
from robustbench_local.reports.sightings import NOT_FINITE, Flags, Looks, Sign, reached, share
from robustbench_local.reports.viewpoints import ViewMap, make_map
from robustbench_local.reports.words import SPACE, counted, full, p_value
from robustbench_local.statistics import Comparison, Estimate, clopper_pearson, mcnemar
from robustbench_local.store import LEAST_CLEAN

MOST_BY_CHANCE = 0.05
"""Share of views that random colours may turn; above it success is not due to the sticker's pattern."""
READING_STICKERS = (
    "One sticker, or one patch beside the sign, for all views of a sign. It was made on views of the "
    "attack's own and is judged on others, which it has never seen. A view counts if the clean sign is read "
    "rightly in that very view: same place, light and noise. Success is the share of these views that are "
    "read as a target; n counts views, and the interval speaks of further views of these signs."
)
"""How the numbers of this section are read."""
LIMITS_OF_SIMULATION = (
    "This is a simulation. Success in it does not prove success on the road: ink, weather, real lenses, a "
    "detector in front of the classifier and the frames before and after are not in it. Failure does not "
    "prove safety: another attacker may look longer, and from elsewhere."
)
"""What must stand beside every such number."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """One condition that the sticker's success is read against."""

    name: str
    """What the sign had on it."""
    expected: str
    """What it should come to if the experiment is sound."""
    measured: Estimate
    """What it came to."""
    kept: bool | None
    """Whether it did; None where that cannot be told."""
    reason: str = ""
    """More about it, in one line."""


@dataclass(frozen=True, kw_only=True)
class TargetShare:
    """What one part of the views was read as."""

    name: str
    """Class, or ``another wrong class``, ...; of all targets together: ``any target``."""
    measured: Estimate
    """Share of the views that count."""
    severity: float | None = None
    """What such a reading costs; None where nothing is known about it."""
    target: bool = True
    """Whether the attacker wants it."""


@dataclass(frozen=True, kw_only=True)
class Approach:
    """The drive-by: frames of one approach, from far to near."""

    hit: Estimate
    """Share of the frames that end as the attacker wants, where the clean sign is read rightly."""
    longest: int
    """Most frames in a row that do."""
    frames: int
    """Frames of an approach."""


@dataclass(frozen=True, kw_only=True)
class SignRow:
    """One sign."""

    sign: Sign
    """Its looks."""
    success: Estimate
    """Share of its views with the sticker that end as the attacker wants."""
    random: Estimate
    """The same with random colours."""
    without_views: Estimate
    """The same with a sticker made on the sign as it is."""
    approach: Approach | None
    """Its drive-by; None if it could not be evaluated."""


@dataclass(frozen=True, kw_only=True)
class StickerResult:
    """A sticker's cell, counted."""

    cell: CellResult
    """The attack on the model."""
    success: Estimate
    """Share of the views that end as the attacker wants."""
    dodged: Estimate
    """Share of the views in which the sign is read as anything but what it is."""
    confidence: float
    """Mean softmax probability of the readings that the attacker wants; NaN if there are none."""
    controls: tuple[Control, ...]
    """What success is read against."""
    comparison: Comparison | None
    """The sticker against the one made without views, on the same views; None without that control."""
    targets: tuple[TargetShare, ...]
    """Where the views ended: every target, all of them together, other classes, the sign's own."""
    map: ViewMap
    """Success over distance and angle."""
    approach: Approach | None
    """All drive-bys together."""
    rule: str
    """What the severities are; empty where there are none."""
    severity: Severity | None
    """Of all views that count."""
    rows: tuple[SignRow, ...]
    """One a sign, void ones included."""

    @property
    def subject(self) -> Subject:
        """The model and defense."""
        return self.cell.subject

    @property
    def counted(self) -> int:
        """Signs whose views count."""
        return sum(row.sign.counted for row in self.rows)

    @property
    def broken(self) -> int:
        """Signs that are misread as the attacker wants in most of their views."""
        return sum(row.sign.broken for row in self.rows if row.sign.counted)

    @property
    def void(self) -> tuple[Sign, ...]:
        """Signs that do not count."""
        return tuple(row.sign for row in self.rows if not row.sign.counted)


def make_stickers(evidence: Evidence) -> list[StickerResult]:
    """The cells about views that are done, in the order of the grid."""
    return [_result(evidence, cell) for cell in evidence.cells if cell.viewed and cell.done]


def _result(evidence: Evidence, cell: CellResult) -> StickerResult:
    targets = cell.record.targets
    views = [sign.looks["view"] for sign in cell.signs if sign.counted]
    wanted = [looks.confidences["sticker"][looks.right][looks.hits("sticker", targets)] for looks in views]
    comparison = _against(views, targets)
    rule, severity, table = _severity(evidence, cell, views)
    return StickerResult(
        cell=cell,
        success=cell.sticker_success,
        dodged=share(looks.read_as("sticker") != looks.label for looks in views),
        confidence=float(np.concatenate(wanted).mean()) if any(map(len, wanted)) else float("nan"),
        controls=_controls(cell, views, comparison),
        comparison=comparison,
        targets=_targets(evidence, cell, views, table),
        map=make_map(views, targets),
        approach=_approach([sign for sign in cell.signs if sign.counted], targets),
        rule=rule,
        severity=severity,
        rows=tuple(_row(sign, targets) for sign in cell.signs),
    )


def _severity(
    evidence: Evidence, cell: CellResult, views: Sequence[Looks]
) -> tuple[str, Severity | None, SeverityTable | None]:
    table = severity_table(evidence, cell.record.model, cell.record.sources)
    if table is None or not views:
        return "", None, table
    readings = (
        (None if read == NOT_FINITE else int(read), looks.label)
        for looks in views
        for read in looks.read_as("sticker")
    )
    return table.rule, weigh(table, readings), table


def _against(views: Sequence[Looks], targets: Sequence[int]) -> Comparison | None:
    """The sticker against the one made without views, view by view."""
    both = [looks for looks in views if "without-views" in looks.predictions]
    if not both:
        return None
    first = np.concatenate([looks.hits("sticker", targets) for looks in both])
    second = np.concatenate([looks.hits("without-views", targets) for looks in both])
    return mcnemar(first.tolist(), second.tolist())


def _controls(cell: CellResult, views: Sequence[Looks], comparison: Comparison | None) -> tuple[Control, ...]:
    targets = cell.record.targets

    def measured(condition: str) -> Estimate:
        return share(looks.hits(condition, targets) for looks in views if condition in looks.predictions)

    clean = share(looks.right for looks in views)
    chance, flat, whole = (measured(one) for one in ("random-colours", "without-views", "whole-sign"))
    found = [
        _control(
            "nothing: read rightly", f"at least {_bound(LEAST_CLEAN)}", clean, lambda x: x >= LEAST_CLEAN
        ),
        _control(
            "random colours in the same place",
            f"at most {_bound(MOST_BY_CHANCE)}",
            chance,
            lambda x: x <= MOST_BY_CHANCE,
        ),
    ]
    if comparison is not None:
        lower = comparison.only_first > comparison.only_second and comparison.significant()
        nothing = not cell.sticker_success.count
        found.append(
            Control(
                name="made on the sign as it is, without views",
                expected="clearly lower",
                measured=flat,
                kept=None if nothing else lower,
                reason="the sticker itself turned no view" if nothing else _told(comparison),
            )
        )
    if whole.known:
        reason = "the attack is weak or the model withstands it: see both"
        found.append(_control("the whole sign painted", "nearly all", whole, lambda x: x >= 0.9, reason))
    return tuple(found)


def _control(
    name: str, expected: str, measured: Estimate, keeps: Callable[[float], bool], reason: str = ""
) -> Control:
    kept = keeps(measured.value) if measured.known else None
    return Control(name=name, expected=expected, measured=measured, kept=kept, reason="" if kept else reason)


def _bound(share: float) -> str:
    return f"{100 * share:.0f}{SPACE}%"


def _told(comparison: Comparison) -> str:
    split = (
        f"{comparison.only_first:,} views fell to the sticker alone, {comparison.only_second:,} to this alone"
    )
    return f"{split}; exact McNemar {p_value(comparison.p_value)}"


def _targets(
    evidence: Evidence, cell: CellResult, views: Sequence[Looks], table: SeverityTable | None
) -> tuple[TargetShare, ...]:
    """Where the views ended, each of them in one row, and the targets together in one more."""
    record = cell.record
    sizes = sum(int(looks.right.sum()) for looks in views)

    def part(
        name: str, marks: Sequence[Flags], *, cost: float | None = None, target: bool = True
    ) -> TargetShare:
        hits = sum(int(one.sum()) for one in marks)
        return TargetShare(name=name, measured=clopper_pearson(hits, sizes), severity=cost, target=target)

    readings = [looks.read_as("sticker") for looks in views]
    labels = [looks.label for looks in views]
    own = [read == label for read, label in zip(readings, labels, strict=True)]
    wanted = [reached(read, label, record.targets) for read, label in zip(readings, labels, strict=True)]
    rows = [
        part(
            evidence.class_name(record.model, target),
            [read == target for read in readings],
            cost=None if table is None else table.of(target, labels[0] if labels else -1),
        )
        for target in record.targets
    ]
    rows.append(part("any target" if record.targets else "any wrong class", wanted))
    if record.targets:
        other = [~(mine | hit) for mine, hit in zip(own, wanted, strict=True)]
        rows.append(part("another wrong class", other, target=False))
    rows.append(part("what it is", own, target=False))
    return tuple(rows)


def _approach(signs: Sequence[Sign], targets: Sequence[int]) -> Approach | None:
    drives = [sign.looks["approach"] for sign in signs if "approach" in sign.looks]
    if not drives:
        return None
    return Approach(
        hit=share(looks.hits("sticker", targets) for looks in drives),
        longest=max(_longest(frames_hit(looks, targets)) for looks in drives),
        frames=max(len(looks.right) for looks in drives),
    )


def frames_hit(looks: Looks, targets: Sequence[int]) -> Flags:
    """Which frames end as the attacker wants; one in which the clean sign is misread does not."""
    return looks.right & reached(looks.predictions["sticker"], looks.label, targets)


def _longest(marks: Flags) -> int:
    """Length of the longest run of true marks."""
    longest = run = 0
    for mark in marks.tolist():
        run = run + 1 if mark else 0
        longest = max(longest, run)
    return longest


def _row(sign: Sign, targets: Sequence[int]) -> SignRow:
    looks = sign.looks.get("view")

    def measured(condition: str) -> Estimate:
        return share([looks.hits(condition, targets)] if looks and condition in looks.predictions else [])

    driven = "approach" in sign.looks and "sticker" in sign.looks["approach"].predictions
    return SignRow(
        sign=sign,
        success=measured("sticker"),
        random=measured("random-colours"),
        without_views=measured("without-views"),
        approach=_approach([sign], targets) if driven else None,
    )


def summary(result: StickerResult) -> str:
    """The result in one sentence."""
    if not result.counted:
        return f"void: {counted(len(result.void), 'sign')}, none read rightly in enough of its clean views"
    signs = counted(result.counted, "sign")
    most = f"{result.broken} of {signs} in more than half of their views"
    worst = (
        f"; at worst {full(result.map.worst.square.estimate)} {result.map.worst.where}"
        if result.map.worst
        else ""
    )
    return f"{full(result.success)} of the views of {signs}, {most}{worst}"
