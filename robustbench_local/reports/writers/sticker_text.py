"""What is said of stickers in results.json and report.md, and beside other cells."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from robustbench_local.reports.analysis.evidence import CellResult
from robustbench_local.reports.analysis.misclassification_severity import SeveritySummary
from robustbench_local.reports.analysis.sticker_controls import StickerControl
from robustbench_local.reports.analysis.sticker_results import (
    SEVERITY_EXPLANATION,
    SIMULATION_LIMITS,
    STICKERS_EXPLANATION,
    DriveBy,
    SignRow,
    StickerResult,
)
from robustbench_local.reports.analysis.sticker_viewpoints import ViewMap, WorstBin
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.formatting.text import (
    EN_DASH,
    MISSING_TEXT,
    format_budget,
    format_estimate,
    format_interval,
    format_percent,
)
from robustbench_local.statistics import Estimate

_SUMMARY_COLUMNS = (
    "model", "views turned", "not read as what it is", "signs turned in most views",
    "mean confidence when read as a target", "worst bin", "frames of the drive-by",
    "drives turned in at least half of their frames", "longest run", "expected severity", "worst reading",
)  # fmt: skip


def encode_sticker(result: StickerResult) -> dict[str, Any]:
    """One sticker's cell for results.json; shares are over views unless said otherwise."""
    record, test = result.cell.record, result.no_views_comparison
    return {
        "model": record.model,
        "defense": record.defense,
        "attack": record.attack,
        "threat": record.threat,
        "sticker_success": result.attack_success.to_json("every sign is void"),
        "misread_rate": result.misread_rate.to_json("every sign is void"),
        "void_success": result.void_success.to_json("no sign is void"),
        "overall_success": result.overall_success.to_json("no sign was looked at"),
        "surface": record.surface and {**asdict(record.surface), "share": record.surface.coverable_share},
        "mean_confidence": None if math.isnan(result.mean_confidence) else result.mean_confidence,
        "signs": len(result.rows),
        "signs_counted": result.counted_signs,
        "signs_broken": result.broken_signs,
        "controls": [_encode_control(control) for control in result.controls],
        "no_views_comparison": None
        if test is None
        else {
            "n": test.n,
            "only_sticker": test.only_first,
            "only_no_views": test.only_second,
            "p_value": test.p_value,
        },
        "prediction_shares": [
            {
                "name": part.name,
                "is_target": part.is_target,
                "severity": part.severity,
                **part.share.to_json(),
            }
            for part in result.prediction_shares
        ],
        "view_map": _encode_map(result.view_map),
        "drive_by": _encode_drive_by(result.drive_by),
        "severity": result.severity and _encode_severity(result.severity_rule, result.severity),
        "by_sign": [_encode_sign(row) for row in result.rows],
    }


def render_stickers(groups: Sequence[Sequence[StickerResult]]) -> Iterator[str]:
    """The section of report.md."""
    yield from ("## Stickers", "", STICKERS_EXPLANATION, "", f"**{SIMULATION_LIMITS}**", "")
    for group in groups:
        record = group[0].cell.record
        size = escape_markdown(format_budget(record.norm, record.eps, record.surface))
        yield from (f"### {escape_markdown(group[0].cell.label)}: {size}", "")
        yield from _iterate_paragraphs(one.surface_text for one in group)
        yield from render_table(_SUMMARY_COLUMNS, map(_format_summary_row, group))
        yield ""
        rules = (one.severity_rule for one in group if one.severity)
        yield from _iterate_paragraphs(
            f"Severity, from 0 to 1: {rule}. {SEVERITY_EXPLANATION}" for rule in rules
        )
        rows = (_format_control_row(result, control) for result in group for control in result.controls)
        yield from render_table(["model", "control", "should be", "measured", "is it so"], rows)
        yield ""
        parts = [escape_markdown(part.name) for part in group[0].prediction_shares]
        read = (
            [
                escape_markdown(str(one.subject)),
                *(format_estimate(part.share) for part in one.prediction_shares),
            ]
            for one in group
            if one.counted_signs
        )
        yield from render_table(["model, read as", *parts], read)
        yield ""


def format_sign_counts(cell: CellResult) -> tuple[str, str]:
    """Where cells stand side by side: how many signs count, and how many of them are turned."""
    tally = cell.tally
    most = f"{tally.broken} of {tally.clean_correct} ({format_interval(cell.attack_success)})"
    return f"signs that count {tally.clean_correct} of {tally.n}", f"turned in most views {most}"


def _iterate_paragraphs(sentences: Iterable[str]) -> Iterator[str]:
    """Each sentence once, as a paragraph of its own."""
    return (part for one in dict.fromkeys(filter(None, sentences)) for part in (escape_markdown(one), ""))


def _format_summary_row(result: StickerResult) -> list[str]:
    who, worst, drive = escape_markdown(str(result.subject)), result.view_map.worst_bin, result.drive_by
    if not result.counted_signs:
        told = "void: no sign is read rightly in enough of its clean views"
        return [who, told, *[""] * (len(_SUMMARY_COLUMNS) - 2)]
    severity = result.severity
    return [
        who,
        format_estimate(result.attack_success),
        format_estimate(result.misread_rate),
        f"{result.broken_signs} of {result.counted_signs}"
        + (f", {len(result.void_signs)} left out" if result.void_signs else ""),
        format_percent(result.mean_confidence),
        MISSING_TEXT if worst is None else str(worst),
        MISSING_TEXT if drive is None else format_percent(drive.success_share),
        MISSING_TEXT if drive is None else _format_successful_drives(drive),
        MISSING_TEXT if drive is None else f"{drive.longest_run} of {drive.frame_count}",
        MISSING_TEXT if severity is None else _format_mean(severity.expected),
        escape_markdown(result.worst_severity_text),
    ]


def _format_control_row(result: StickerResult, control: StickerControl) -> list[str]:
    verdict = {None: "cannot be told", True: "yes", False: "**no**"}[control.is_met]
    remarks = f": {escape_markdown(control.remarks)}" if control.remarks else ""
    measured = format_estimate(control.success_share)
    if control.misread_rate.is_known:
        measured += f"; not read as what it is {format_estimate(control.misread_rate)}"
    who = escape_markdown(str(result.subject))
    return [who, control.name, escape_markdown(control.expected), measured, f"{verdict}{remarks}"]


def _encode_control(control: StickerControl) -> dict[str, Any]:
    measured = control.success_share.to_json(control.reason or "not measured")
    return {
        "name": control.name,
        "expected": control.expected,
        "is_met": control.is_met,
        "consequence": control.consequence,
        "reason": control.reason,
        "invalid_count": control.invalid_count,
        **measured,
        "misread_rate": control.misread_rate.to_json("not counted of this control"),
    }


def _encode_map(found: ViewMap) -> dict[str, Any]:
    return {
        "distances": list(found.distance_labels),
        "angles": list(found.angle_labels),
        "success": [[square.estimate.to_json(square.status_text) for square in row] for row in found.rows],
        "worst": found.worst_bin and _encode_worst_bin(found.worst_bin),
    }


def _encode_severity(rule: str, severity: SeveritySummary) -> dict[str, Any]:
    return {
        "rule": rule,
        "expected": severity.expected.to_json(),
        "worst": severity.worst_severity,
        "worst_class": severity.worst_class,
        "worst_count": severity.worst_count,
    }


def _encode_worst_bin(worst: WorstBin) -> dict[str, Any]:
    return {
        "where": worst.position,
        "bins": worst.bin_count,
        "level": worst.estimate.level,
    } | worst.estimate.to_json()


def _format_mean(expected: Estimate) -> str:
    return f"{expected.value:.3f} ({expected.low:.3f}{EN_DASH}{expected.high:.3f}, n = {expected.n})"


def _format_successful_drives(drive: DriveBy) -> str:
    return f"{drive.successful_drives.count} of {drive.successful_drives.n} ({format_interval(drive.successful_drives)})"


def _encode_drive_by(approach: DriveBy | None) -> dict[str, Any] | None:
    if approach is None:
        return None
    return {
        "longest_run": approach.longest_run,
        "frames": approach.frame_count,
        "value": approach.success_share if approach.counted_frames else None,
        "low": None,
        "high": None,
        "n": approach.counted_frames,
        "reason": "no interval: the frames of a drive are not independent",
        "successful_drives": approach.successful_drives.to_json(),
    }


def _encode_sign(row: SignRow) -> dict[str, Any]:
    return {
        "image": row.sign.image,
        "status": row.sign.status,
        "problem": row.sign.problem,
        "broken": row.sign.broken,
        "clean_accuracy": row.sign.clean_accuracy.to_json("not looked at"),
        "sticker_success": row.attack_success.to_json("not looked at"),
        "random_colours_success": row.random_colours_success.to_json("not looked at"),
        "no_views_success": row.no_views_success.to_json("not looked at"),
        "drive_by": _encode_drive_by(row.drive_by),
    }
