"""The objects that ``rbl run --json`` prints, one a line, and what their keys mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console

from robustbench_local.cli.main import INTERNAL_EXIT_CODE, INTERRUPTED_EXIT_CODE
from robustbench_local.cli.terminal_output import print_json
from robustbench_local.errors import RobustbenchError
from robustbench_local.reports.analysis.gate_report import GateReport
from robustbench_local.reports.writers.gate_document import GateDocument
from robustbench_local.reports.writers.gate_json import encode_verdict

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
    "robust_accuracy": "Their share with its 95% interval, `{value, low, high, n}`; null before the cell has "
    "ended, because the first images are no sample of all, and where images come in groups or are evaluated "
    "over views, whose intervals the results have.",
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
    "models": {
        "models": "The models without their wrappers, each with `model`, `defense`, `input` (channels, "
        "height and width of the data's images), `preprocessing`, `preprocessing_from` and "
        "`preprocessing_check`, as under `models` in `results.json`."
    },
    "plan": {
        "shard": "The part of the images that is run, such as `2/8`; null for all.",
        "cells": "The cells, each with its images, `max_passes`, `max_seconds`, and why it is skipped; "
        "`expected_passes` and `expected_cpu_seconds` as `{low, value, high}`, a range for four in five, and "
        "`expected_from`, what they rest on; null where only the upper bound is known.",
        "expected": "The sums over the cells with `passes`, `cpu_seconds`, and `seconds` with `workers` on a "
        "core each; `peak_bytes` of the largest process, `unknown_cells` that are in no sum, and "
        "`pilot_seconds`; null if the cost of no cell is expected.",
        "hardware": "For each `--hardware`: `hours` and `price` as `{low, value, high}` on one such card, "
        "extrapolated from `cpu_seconds` by `peak_factor`, the published `fp32_tflops` over `core_gflops`, "
        "measured here, and by `reached_share`; `price` is null without a `price_per_hour`.",
        "resolution": "What the numbers of images can resolve.",
        "class_resolution": "The same for single classes; null for one class.",
        "phase_resolution": "The same for attacks on different numbers of images, in phases.",
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
        "status": "`done`, `stopped`, `partial`, `skipped`, `error` or `timeout`.",
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
        "status": "`pass`, `fail`, `warn`, `waived`, `inconclusive` or `skipped`; `blocked` for a violated "
        "certificate.",
        "line": "The verdict in one line.",
        "*": "For a gate, all other keys of an entry of `gates` in `rbl gate --format json`.",
    },
    "run_ended": {
        "exit_code": "The exit code of the command.",
        "report": "Path of the report; null if the run was stopped.",
        "seconds": "Seconds from the plan to the end of the last cell; null if no cell was run or the "
        "run was stopped.",
        "expected_seconds": "`[low, high]`, expected after the first images; null if nothing was expected.",
        "max_seconds": "Upper bound from the plan; null if unknown.",
        "passes": "Forward and backward passes of the images that this call finished; null as for `seconds`.",
        "expected_passes": "`[low, high]`, expected after the first images; null if nothing was expected.",
        "max_passes": "Upper bound from the plan.",
        "cpu_seconds": "Seconds of CPU time over all processes, from the first to the last cell.",
        "peak_bytes": "Peak memory of the largest process; null where the system does not tell.",
        "expected_peak_bytes": "The same after the first images.",
        "images_before_estimate": "Number of images that the expectations rest on.",
    },
}
"""Event -> its keys beside ``event``, and their meaning; in the order in which they come."""


def list_gate_objects(report: GateReport, run: Path) -> list[dict[str, Any]]:
    """Return one object for each violated certificate, then one for each gate and model.

    Args:
        report: The verdicts.
        run: The run directory.
    """
    document = GateDocument(
        report=report,
        run=run.resolve().name,
        version=metadata.version("robustbench-local"),
        judged_on=datetime.now(UTC).date(),
        exit_code=report.exit_code,
    )
    blocked = [{"status": "blocked", "line": line} for line in report.violations]
    return [*blocked, *(encode_verdict(verdict, document) for verdict in report.verdicts)]


@contextmanager
def print_early_end(console: Console) -> Iterator[None]:
    """Print the last JSON line where the context is left by an error or an interrupt, which goes on.

    Args:
        console: The console to print on.
    """
    try:
        yield
    except BaseException as error:
        code = INTERRUPTED_EXIT_CODE if isinstance(error, KeyboardInterrupt) else INTERNAL_EXIT_CODE
        print_run_end(console, error.exit_code if isinstance(error, RobustbenchError) else code)
        raise


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
        timing: Actual, expected and maximum seconds and passes; None or empty if no cell was run.
    """
    keys = [key for key in EVENTS["run_ended"] if key not in {"exit_code", "report"}]
    times = {**dict.fromkeys(keys), **(timing or {})}
    shown = None if report is None else str(report)
    print_json(console, {"event": "run_ended", "exit_code": exit_code, "report": shown, **times})
