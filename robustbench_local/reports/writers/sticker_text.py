"""What is said of stickers in results.json and report.md, and beside other cells."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from robustbench_local.reports.analysis.evidence import CellResult
from robustbench_local.reports.analysis.misclassification_severity import Severity
from robustbench_local.reports.analysis.sticker_controls import Control
from robustbench_local.reports.analysis.sticker_results import (
    LIMITS_OF_SIMULATION,
    READING_SEVERITY,
    READING_STICKERS,
    Approach,
    SignRow,
    StickerResult,
)
from robustbench_local.reports.analysis.sticker_viewpoints import Bin, ViewMap
from robustbench_local.reports.formatting.markdown_tables import escape, table
from robustbench_local.reports.formatting.text import DASH, NOTHING, SPACE, budget, full, interval, percent
from robustbench_local.statistics import Estimate

_SUMMARY = (
    "model", "views turned", "not read as what it is", "signs turned in most views",
    "mean confidence when read as a target", "worst bin", "frames of the drive-by",
    "drives turned in at least half of their frames", "longest run", "expected severity", "worst reading",
)  # fmt: skip


def sticker_json(result: StickerResult) -> dict[str, Any]:
    """One sticker's cell for results.json; shares are over views unless said otherwise."""
    record, test = result.cell.record, result.comparison
    return {
        "model": record.model,
        "defense": record.defense,
        "attack": record.attack,
        "threat": record.threat,
        "sticker_success": result.success.as_json("every sign is void"),
        "dodged": result.dodged.as_json("every sign is void"),
        "left_out": result.left_out.as_json("no sign is void"),
        "together": result.together.as_json("no sign was looked at"),
        "surface": record.surface and {**asdict(record.surface), "share": record.surface.share},
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
        "map": _map(result.map),
        "drive_by": _approach(result.approach),
        "severity": result.severity and _severity(result.rule, result.severity),
        "by_sign": [_sign(row) for row in result.rows],
    }


def sticker_markdown(groups: Sequence[Sequence[StickerResult]]) -> Iterator[str]:
    """The section of report.md."""
    yield from ("## Stickers", "", READING_STICKERS, "", f"**{LIMITS_OF_SIMULATION}**", "")
    for group in groups:
        record = group[0].cell.record
        size = escape(budget(record.norm, record.eps, record.surface))
        yield from (f"### {escape(record.attack)}: {size}", "")
        yield from _separate(one.place for one in group)
        yield from table(_SUMMARY, map(_summed_up, group))
        yield ""
        rules = (one.rule for one in group if one.severity)
        yield from _separate(f"Severity, from 0 to 1: {rule}. {READING_SEVERITY}" for rule in rules)
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


def signs_of_cell(cell: CellResult) -> tuple[str, str]:
    """Where cells stand side by side: how many signs count, and how many of them are turned."""
    tally = cell.tally
    most = f"{tally.broken} of {tally.clean_correct} ({interval(cell.attack_success)})"
    return f"signs that count {tally.clean_correct} of {tally.n}", f"turned in most views {most}"


def _separate(sentences: Iterable[str]) -> Iterator[str]:
    """Each sentence once, as a paragraph of its own."""
    return (part for one in dict.fromkeys(filter(None, sentences)) for part in (escape(one), ""))


def _summed_up(result: StickerResult) -> list[str]:
    who, worst, drive = escape(str(result.subject)), result.map.worst, result.approach
    if not result.counted:
        told = "void: no sign is read rightly in enough of its clean views"
        return [who, told, *[""] * (len(_SUMMARY) - 2)]
    severity = result.severity
    return [
        who,
        full(result.success),
        full(result.dodged),
        f"{result.broken} of {result.counted}" + (f", {len(result.void)} left out" if result.void else ""),
        percent(result.confidence),
        NOTHING if worst is None else str(worst),
        NOTHING if drive is None else percent(drive.share),
        NOTHING if drive is None else _mostly(drive),
        NOTHING if drive is None else f"{drive.longest} of {drive.frames}",
        NOTHING if severity is None else _mean(severity.expected),
        escape(result.harm),
    ]


def _control_row(result: StickerResult, control: Control) -> list[str]:
    verdict = {None: "cannot be told", True: "yes", False: "**no**"}[control.kept]
    remarks = f": {escape(control.remarks)}" if control.remarks else ""
    measured = full(control.measured)
    if control.dodged.known:
        measured += f"; not read as what it is {full(control.dodged)}"
    who = escape(str(result.subject))
    return [who, control.name, escape(control.expected), measured, f"{verdict}{remarks}"]


def _control(control: Control) -> dict[str, Any]:
    measured = control.measured.as_json(control.reason or "not measured")
    return {
        "name": control.name,
        "expected": control.expected,
        "kept": control.kept,
        "consequence": control.consequence,
        "reason": control.reason,
        "barred": control.barred,
        **measured,
        "dodged": control.dodged.as_json("not counted of this control"),
    }


def _map(found: ViewMap) -> dict[str, Any]:
    return {
        "distances": list(found.distances),
        "angles": list(found.angles),
        "success": [[square.estimate.as_json(square.word) for square in row] for row in found.rows],
        "worst": found.worst and _worst(found.worst),
    }


def _severity(rule: str, severity: Severity) -> dict[str, Any]:
    return {
        "rule": rule,
        "expected": severity.expected.as_json(),
        "worst": severity.worst,
        "worst_class": severity.worst_class,
        "worst_count": severity.worst_count,
    }


def _worst(worst: Bin) -> dict[str, Any]:
    return {
        "where": worst.where,
        "bins": worst.among,
        "level": worst.estimate.level,
    } | worst.estimate.as_json()


def _mean(expected: Estimate) -> str:
    return f"{expected.value:.3f} ({expected.low:.3f}{DASH}{expected.high:.3f}, n{SPACE}={SPACE}{expected.n})"


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
