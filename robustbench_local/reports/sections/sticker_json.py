"""The entries of results.json about stickers."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from robustbench_local.reports.analysis.misclassification_severity import SeveritySummary
from robustbench_local.reports.analysis.sticker_controls import StickerControl
from robustbench_local.reports.analysis.sticker_results import (
    DriveBy,
    SignRow,
    StickerResult,
)
from robustbench_local.reports.analysis.sticker_viewpoints import ViewMap, WorstBin


def encode_sticker(result: StickerResult) -> dict[str, Any]:
    """Encode one sticker cell for results.json; shares are over views unless stated otherwise."""
    record, test = result.cell.record, result.no_views_comparison
    return {
        "model": record.model,
        "defense": record.defense,
        "attack": record.attack,
        "threat": record.threat,
        "sticker_success": result.attack_success.to_json("every sign is void"),
        "sticker_success_over_signs": result.success_over_signs.to_json("every sign is void"),
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


def _encode_map(view_map: ViewMap) -> dict[str, Any]:
    return {
        "distances": list(view_map.distance_labels),
        "angles": list(view_map.angle_labels),
        "success": [[entry.estimate.to_json(entry.status_text) for entry in row] for row in view_map.rows],
        "worst": view_map.worst_bin and _encode_worst_bin(view_map.worst_bin),
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
