"""What is said of stickers outside of the page: results.json and report.md."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from robustbench_local.reports.controls import Control
from robustbench_local.reports.markup import escape, table
from robustbench_local.reports.stickers import (
    LIMITS_OF_SIMULATION,
    READING_STICKERS,
    Approach,
    SignRow,
    StickerResult,
)
from robustbench_local.reports.viewpoints import Bin
from robustbench_local.reports.words import NOTHING, budget, full, interval, percent

_SUMMARY = (
    "model", "views turned", "signs turned in most views", "worst bin", "frames of the drive-by",
    "drives turned in at least half of their frames", "longest run", "expected severity", "worst reading",
)  # fmt: skip


def sticker_json(result: StickerResult) -> dict[str, Any]:
    """One sticker's cell for results.json; shares are over views unless said otherwise."""
    record, found, test = result.cell.record, result.map, result.comparison
    return {
        "model": record.model,
        "defense": record.defense,
        "attack": record.attack,
        "threat": record.threat,
        "sticker_success": result.success.as_json("every sign is void"),
        "dodged": result.dodged.as_json("every sign is void"),
        "mean_confidence": None if math.isnan(result.confidence) else result.confidence,
        "signs": len(result.rows),
        "signs_counted": result.counted,
        "signs_broken": result.broken,
        "controls": [_control(control) for control in result.controls],
        "without_views": None
        if test is None
        else {
            "n": test.n,
            "only_sticker": test.only_first,
            "only_without_views": test.only_second,
            "p_value": test.p_value,
        },
        "readings": [
            {"name": part.name, "target": part.target, "severity": part.severity, **part.measured.as_json()}
            for part in result.targets
        ],
        "map": {
            "distances": list(found.distances),
            "angles": list(found.angles),
            "success": [[square.estimate.as_json(square.word) for square in row] for row in found.rows],
            "worst": found.worst and _worst(found.worst),
        },
        "drive_by": _approach(result.approach),
        "severity": result.severity
        and {
            "rule": result.rule,
            "expected": result.severity.expected.as_json(),
            "worst": result.severity.worst,
            "worst_class": result.severity.worst_class,
            "worst_count": result.severity.worst_count,
        },
        "by_sign": [_sign(row) for row in result.rows],
    }


def sticker_markdown(groups: Sequence[Sequence[StickerResult]]) -> Iterator[str]:
    """The section of report.md."""
    yield from ("## Stickers", "", READING_STICKERS, "", f"**{LIMITS_OF_SIMULATION}**", "")
    for group in groups:
        record = group[0].cell.record
        yield from (f"### {escape(record.attack)}: {budget(record.norm, record.eps)}", "")
        yield from table(_SUMMARY, map(_summed_up, group))
        yield ""
        rows = (_control_row(result, control) for result in group for control in result.controls)
        yield from table(["model", "control", "should be", "measured", "is it so"], rows)
        yield ""
        parts = [escape(part.name) for part in group[0].targets]
        read = (
            [escape(str(one.subject)), *(full(part.measured) for part in one.targets)]
            for one in group
            if one.counted
        )
        yield from table(["model, read as", *parts], read)
        yield ""


def _summed_up(result: StickerResult) -> list[str]:
    who, worst, drive = escape(str(result.subject)), result.map.worst, result.approach
    if not result.counted:
        told = "void: no sign is read rightly in enough of its clean views"
        return [who, told, *[""] * (len(_SUMMARY) - 2)]
    severity = result.severity
    return [
        who,
        full(result.success),
        f"{result.broken} of {result.counted}" + (f", {len(result.void)} left out" if result.void else ""),
        NOTHING if worst is None else str(worst),
        NOTHING if drive is None else percent(drive.share),
        NOTHING if drive is None else _mostly(drive),
        NOTHING if drive is None else f"{drive.longest} of {drive.frames}",
        NOTHING if severity is None else f"{severity.expected.value:.3f}",
        NOTHING if severity is None else f"{severity.worst:.2f}",
    ]


def _control_row(result: StickerResult, control: Control) -> list[str]:
    verdict = {None: "cannot be told", True: "yes", False: "**no**"}[control.kept]
    reason = f": {escape(control.reason)}" if control.reason else ""
    who = escape(str(result.subject))
    return [who, control.name, escape(control.expected), full(control.measured), f"{verdict}{reason}"]


def _control(control: Control) -> dict[str, Any]:
    measured = control.measured.as_json(control.reason or "not measured")
    told = {"name": control.name, "expected": control.expected, "kept": control.kept}
    return {**told, "reason": control.reason, "barred": control.barred, **measured}


def _worst(worst: Bin) -> dict[str, Any]:
    return {
        "where": worst.where,
        "bins": worst.among,
        "level": worst.estimate.level,
    } | worst.estimate.as_json()


def _mostly(drive: Approach) -> str:
    return f"{drive.mostly.count} of {drive.mostly.n} ({interval(drive.mostly)})"


def _approach(approach: Approach | None) -> dict[str, Any] | None:
    if approach is None:
        return None
    return {
        "longest_run": approach.longest,
        "frames": approach.frames,
        "value": approach.share if approach.seen else None,
        "low": None,
        "high": None,
        "n": approach.seen,
        "reason": "no interval: the frames of a drive are not independent",
        "drives_turned": approach.mostly.as_json(),
    }


def _sign(row: SignRow) -> dict[str, Any]:
    return {
        "image": row.sign.image,
        "standing": row.sign.standing,
        "problem": row.sign.problem,
        "broken": row.sign.broken,
        "clean": row.sign.clean.as_json("not looked at"),
        "sticker_success": row.success.as_json("not looked at"),
        "random_colours": row.random.as_json("not looked at"),
        "without_views": row.without_views.as_json("not looked at"),
        "drive_by": _approach(row.approach),
    }
