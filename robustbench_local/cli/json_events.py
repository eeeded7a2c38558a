"""The objects that ``rbl run --json`` prints, one a line, and what their keys mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from robustbench_local.cli.terminal_output import print_json
from robustbench_local.reports.analysis.gate_lines import format_verdict
from robustbench_local.reports.analysis.gate_report import GateReport
from robustbench_local.reports.analysis.gate_types import GateVerdict

CELL_KEYS: Mapping[str, str] = {
    "cell": "Number of the cell in the plan, from 1.",
    "cells": "Number of cells of the plan.",
    "model": "Id of the model.",
    "defense": "Name of the defense, or `none`.",
    "attack": "Identifier of the attack or certificate.",
    "label": "Its label in tables.",
    "images": "Number of images of the cell.",
    "done": "Number of them that are done.",
}
"""Keys of every object about a cell."""
COUNT_KEYS: Mapping[str, str] = {
    "robust": "Number of finished images that are robust, or certified.",
    "robust_accuracy": "Their share with its 95% interval, `{value, low, high, n}`; null where images come "
    "in groups or are evaluated over views, whose intervals the results have.",
    "passes": "Forward and backward passes of the finished images.",
    "seconds": "Seconds spent on the cell.",
}
"""Keys of the counts of a cell."""
TIME_KEYS: Mapping[str, str] = {
    "share_done": "Share of all images over all cells that is done, in [0, 1].",
    "elapsed_seconds": "Seconds since the plan was ready.",
    "seconds_left": "Expected seconds until the last cell ends, `{low, value, high}`, a range for four runs "
    "in five; null before any image is measured.",
    "measured_images": "Number of images that this rests on.",
    "max_seconds_left": "Upper bound of the seconds left; null if unknown.",
}
"""Keys about the time of the run."""

EVENTS: Mapping[str, Mapping[str, str]] = {
    "training": {"message": "A line about the training of a defense, before the plan."},
    "plan": {
        "cells": "The cells, each with its images, `max_passes`, `max_seconds`, and why it is skipped.",
        "resolution": "What the numbers of images can resolve.",
        "class_resolution": "The same for single classes; null for one class.",
        "warnings": "Warnings before the run, one line each.",
    },
    "run_started": {
        "name": "Name of the grid.",
        "cells": "Number of cells.",
        "images": "Number of images of the data set.",
        "image_attacks": "Number of images over all cells.",
        "seed": "The seed.",
        "max_seconds_left": TIME_KEYS["max_seconds_left"],
    },
    "diagnosis": {
        "results": "What the models answered: `id`, `model`, `defense`, `status` and `sentence` of each "
        "diagnostic.",
        "passes": "Passes that the questions took.",
        "planned_passes": "Maximum passes of the attacks.",
    },
    "cell_known": {
        **CELL_KEYS,
        "status": "Status that an earlier call of the same run left; only in a resumed run.",
    },
    "cell_started": {
        **CELL_KEYS,
        "is_pilot": "Whether only the first images are run now, to estimate the time; the cell starts again.",
    },
    "progress": {
        **CELL_KEYS,
        **COUNT_KEYS,
        **TIME_KEYS,
        "batch_passes": "Passes of the batch at work.",
    },
    "cell_ended": {
        **CELL_KEYS,
        **COUNT_KEYS,
        "status": "`done`, `partial`, `skipped`, `error` or `timeout`.",
        "error": "Reason in one line; null for `done`.",
    },
    "info": {"message": "An event, in one line.", "key": "Key of the cell that it is about, or null."},
    "warning": {
        "message": "A warning, in one line.",
        "key": "Key of the cell that it is about, or null.",
    },
    "error": {"message": "An error, in one line.", "key": "Key of the cell that it is about, or null."},
    "finished": {"cells": "Number of cells; printed instead of all above if nothing was left to run."},
    "results": {"*": "All keys of `results.json`."},
    "gate": {
        "id": "Id of the gate; null for a violated certificate.",
        "status": "`pass`, `fail`, `warn`, `waived`, `inconclusive` or `skipped`; `blocked` for a violated "
        "certificate.",
        "model": "Id of the model; null if the run has none that the gate concerns.",
        "defense": "Name of its defense, or null.",
        "value": "The measured value; null if it is unknown or beyond the search.",
        "low": "Lower end of its 95% interval, or null.",
        "high": "Upper end, or null.",
        "n": "Number of images.",
        "limit": "The limit.",
        "line": "The verdict in one line.",
        "explanation": "The reason, where there is more to say than the line does.",
    },
    "run_ended": {
        "exit_code": "The exit code of the command.",
        "report": "Path of the report; null if the run was stopped.",
        "seconds": "Seconds from the plan to the end of the last cell; null if no cell was run.",
        "expected_seconds": "`[low, high]`, expected after the first images; null if nothing was expected.",
        "max_seconds": "Upper bound from the plan; null if unknown.",
    },
}
"""Event -> its keys beside ``event``, and their meaning; in the order in which they come."""


def list_gate_objects(report: GateReport) -> list[dict[str, Any]]:
    """Return one object for each violated certificate, then one for each gate and model."""
    unknown = dict.fromkeys(EVENTS["gate"])
    blocked = [{**unknown, "status": "blocked", "line": line} for line in report.violations]
    return [*blocked, *map(_describe_verdict, report.verdicts)]


def _describe_verdict(verdict: GateVerdict) -> dict[str, Any]:
    estimate = verdict.drop or verdict.estimate
    ends = {
        key: getattr(estimate, key) if estimate.is_known and math.isfinite(getattr(estimate, key)) else None
        for key in ("value", "low", "high")
    }
    return {
        "id": verdict.gate.id,
        "status": verdict.status,
        "model": verdict.subject and verdict.subject.model,
        "defense": verdict.subject and verdict.subject.defense,
        **ends,
        "n": estimate.n,
        "limit": verdict.gate.limit,
        "line": format_verdict(verdict),
        "explanation": verdict.explanation,
    }


def print_run_end(
    console: Console,
    exit_code: int,
    *,
    report: Path | None = None,
    timing: Mapping[str, Any] | None = None,
) -> None:
    """Print the last JSON line of a run.

    Args:
        console: The console to print on.
        exit_code: The exit code of the command.
        report: The report; None if the run was stopped.
        timing: Actual, expected and maximum seconds; None or empty if no cell was run.
    """
    times = {"seconds": None, "expected_seconds": None, "max_seconds": None, **(timing or {})}
    shown = None if report is None else str(report)
    print_json(console, {"event": "run_ended", "exit_code": exit_code, "report": shown, **times})
