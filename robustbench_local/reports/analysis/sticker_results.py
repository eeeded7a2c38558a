"""Stickers and patches: how often a sign is misread over held-out views, and the controls beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robustbench_local.reports.analysis.evidence import CellResult, Evidence, Subject
from robustbench_local.reports.analysis.misclassification_severity import (
    Severity,
    SeverityTable,
    severity_table,
    weigh,
)
from robustbench_local.reports.analysis.sticker_controls import Control, against_no_views, make_controls
from robustbench_local.reports.analysis.sticker_viewpoints import ViewMap, make_map
from robustbench_local.reports.analysis.sticker_views import (
    NOT_FINITE,
    Flags,
    Looks,
    Sign,
    dodged,
    reached,
    share,
    turned,
)
from robustbench_local.reports.formatting.text import NOTHING, SPACE, counted, full, isolated, percent
from robustbench_local.statistics import Comparison, Estimate, clopper_pearson, round_figure

READING_STICKERS = (
    "One sticker, or one patch beside the sign, for all views of a sign. It was made on views of the "
    "attack's own and is judged on others, which it has never seen. A view counts if the clean sign is read "
    "rightly in that very view: same place, light and noise. A view is turned if the sign is then read as a "
    "target or, where there are no targets, as any wrong class. Success is the share of views that are "
    "turned; n counts views, and the interval speaks of further views of these signs. A sign that is misread "
    "in more than 5 % of its clean views is void and does not count. A bin holds the views from one range of "
    "distances and one range of angles. The worst bin is the worst of all those with 10 views or more, and "
    "its interval is corrected for their number (Bonferroni). A drive-by is one drive a sign, in one light "
    "and through one lens: its frames are not independent, so their share has no interval. The number of "
    "drives that are turned in at least half of their frames has one, over signs."
)
"""How the numbers of this section are read."""
READING_SEVERITY = (
    "Expected: its mean over the views that count, with a 95 % interval. Worst: the most severe class that "
    "any of them is read as, and how many are."
)
"""How severities are read."""
LIMITS_OF_SIMULATION = (
    "This is a simulation. Success in it does not prove success on the road: ink, weather, real lenses, a "
    "detector in front of the classifier and the frames before and after are not in it. Failure does not "
    "prove safety: another attacker may look longer, and from elsewhere."
)
"""What must stand beside every such number."""


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

    share: float
    """Share of the frames that end as the attacker wants, where the clean sign is read rightly; NaN if it is
    nowhere. Frames of one drive are alike: there is no interval over them."""
    seen: int
    """Frames in which the clean sign is read rightly."""
    mostly: Estimate
    """Share of the drives, one a sign, in which at least half of these frames end so."""
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
    left_out: Estimate
    """Share of the views of the void signs that end as the attacker wants."""
    together: Estimate
    """The same of all signs that were looked at, void or not."""
    own: str
    """Name of the signs' class; ``what it is`` where they are of several."""
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
    worst_reading: str
    """Name of the class that was read at the worst severity."""
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
    def of_signs(self) -> str:
        """How many signs count, of how many."""
        return f"{self.counted} of {counted(len(self.rows), 'sign')}"

    @property
    def broken(self) -> int:
        """Signs that are misread as the attacker wants in most of their views."""
        return sum(row.sign.broken for row in self.rows if row.sign.counted)

    @property
    def elsewhere(self) -> Estimate:
        """Share of the views in which the sign is misread and not as the attacker wants."""
        return clopper_pearson(self.dodged.count - self.success.count, self.dodged.n)

    @property
    def random_colours(self) -> Estimate:
        """Share of the views in which random colours have the sign read as anything but what it is."""
        return dodged((row.sign for row in self.rows if row.sign.counted), "random-colours")

    @property
    def place(self) -> str:
        """What the sticker may cover, in sentences; empty where the run does not know, and for a patch."""
        found, area = self.cell.record.surface, self.cell.record.eps
        if found is None:
            return ""
        part = "all" if area == 1 else f"{100 * area:.3g}{SPACE}%"
        pixels = f"{found.covered:,.0f} of {found.image_pixels:,} pixels"
        covers = f"A sticker may cover {part} of the surface: on average {pixels}, {percent(found.share)} of"
        return f"{covers} the image. The surface is {found.what}."

    @property
    def harm(self) -> str:
        """The worst severity, the class that was read at it, and in how many of the views."""
        worst = self.severity
        if worst is None or not worst.worst:
            return NOTHING if worst is None else "none"
        share = f"{worst.worst_count:,} of {counted(self.success.n, 'view')}"
        return f"{worst.worst:.2f}: {self.worst_reading}, {share}"

    @property
    def void(self) -> tuple[Sign, ...]:
        """Signs that do not count."""
        return tuple(row.sign for row in self.rows if not row.sign.counted)


def make_stickers(evidence: Evidence) -> list[StickerResult]:
    """The cells about views that are done, in the order of the grid."""
    return [_result(evidence, cell) for cell in evidence.cells if cell.viewed and cell.done]


def _result(evidence: Evidence, cell: CellResult) -> StickerResult:
    targets, counting = cell.record.targets, [sign for sign in cell.signs if sign.counted]
    views = [sign.looks["view"] for sign in counting]
    wanted = [looks.confidences["sticker"][looks.right][looks.hits("sticker", targets)] for looks in views]
    rule, severity, table = _severity(evidence, cell, views)
    return StickerResult(
        cell=cell,
        success=cell.sticker_success,
        dodged=dodged(counting, "sticker"),
        left_out=turned((sign for sign in cell.signs if sign.standing == "void"), "sticker", targets),
        together=turned(cell.signs, "sticker", targets),
        own=_own(evidence, cell),
        confidence=round_figure(float(np.concatenate(wanted).mean())) if any(map(len, wanted)) else math.nan,
        controls=make_controls(cell),
        comparison=against_no_views(cell),
        targets=_targets(evidence, cell, views, table),
        map=make_map(views, targets, evidence.data.get("image_shape") or ()),
        approach=_approach(counting, targets),
        rule=rule,
        severity=severity,
        worst_reading=evidence.class_name(cell.record.model, severity.worst_class) if severity else "",
        rows=tuple(_row(sign, targets) for sign in cell.signs),
    )


def _own(evidence: Evidence, cell: CellResult) -> str:
    labels = {sign.label for sign in cell.signs}
    return evidence.class_name(cell.record.model, *labels) if len(labels) == 1 else "what it is"


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
    hits = [looks.hits("sticker", targets) for looks in drives]
    hit, seen = sum(int(marks.sum()) for marks in hits), sum(map(len, hits))
    return Approach(
        share=hit / seen if seen else math.nan,
        seen=seen,
        mostly=share([np.array([2 * marks.sum() >= len(marks) for marks in hits if len(marks)])]),
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
    """The result in a sentence or two, without the last full stop."""
    if not result.counted:
        return f"void: {counted(len(result.void), 'sign')}, none read rightly in enough of its clean views"
    wanted = "read as a target" if result.cell.targeted else "misread"
    worst = f"; at worst {result.map.worst}" if result.map.worst else ""
    views = f"{full(result.success)} of the views of {result.of_signs} are {wanted}"
    most = f"{result.broken} of {counted(result.counted, 'sign')} in more than half of their views"
    chance = f"with random colours {full(result.random_colours)}"
    if not result.cell.targeted:
        return f"{views}, {most}{worst}; {chance}"
    more = f"In a further {full(result.elsewhere)} the sign is read as another wrong class"
    whole = f"not read as {isolated(result.own)}: {full(result.dodged)}, {chance}"
    return f"{views}, {most}{worst}. {more}; {whole}"
