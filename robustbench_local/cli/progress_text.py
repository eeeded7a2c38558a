"""The words of the progress displays: results of cells, times and shares, each in one short text."""

from __future__ import annotations

from robustbench_local.evaluation.execution.cost_range import CostRange
from robustbench_local.evaluation.planning.plan import CellSpec
from robustbench_local.reports.formatting.text import format_count, format_interval, format_percent
from robustbench_local.statistics import compute_clopper_pearson
from robustbench_local.store.records import OutcomeCounts
from robustbench_local.store.run_labels import RunLabels

_STEPS = ((60, 10, 1, "s"), (600, 60, 60, "min"), (3600, 300, 60, "min"), (36_000, 1800, 3600, "h"))
"""Below so many seconds: the step in seconds, the seconds of the unit, and the unit."""


def format_title(labels: RunLabels, cell: CellSpec) -> str:
    """Return the title of a cell: attack on model."""
    record = cell.record
    model = labels.get_model_label(record.model, record.defense)
    return f"{labels.get_attack_label(record.attack)} on {model}"


def format_progress(cell: CellSpec, counts: OutcomeCounts) -> str:
    """Format the results of a cell so far, without an interval.

    Images run in the order of the data, often class by class: the first ones are no sample of all.
    """
    if cell.record.measure == "views":
        return format_sticker_success(counts)
    return f"{format_robust_word(cell)} so far {format_robust_share(counts, has_interval=False)}"


def format_robust_share(counts: OutcomeCounts, *, has_interval: bool = True) -> str:
    """Format the share of robust, or certified, images; with its interval where that means something."""
    if not counts.n:
        return "-"
    share = compute_clopper_pearson(counts.robust, counts.n)
    interval = f" ({format_interval(share)})" if has_interval else ""
    return f"{format_percent(share.value)}{interval}"


def format_sticker_success(counts: OutcomeCounts) -> str:
    """Format the results of signs evaluated over views; void or misclassified clean ones separately."""
    left_out = counts.n - counts.clean_correct
    apart = f", {left_out} excluded" if left_out else ""
    return (
        f"{counts.broken} of {format_count(counts.clean_correct, 'sign')} misclassified in most of "
        f"their views{apart}"
    )


def format_robust_word(cell: CellSpec) -> str:
    """Return the word for a correct image: robust against an attack, or certified."""
    return "certified" if cell.record.measure == "certificate" else "robust"


def format_cell_result(
    cell: CellSpec, counts: OutcomeCounts, *, in_groups: bool = False, stop_reason: str | None = None
) -> str:
    """Format the result of a cell that has ended briefly.

    Args:
        cell: The cell.
        counts: Its counts.
        in_groups: Whether the images come in groups, such as tracks: the interval over groups that the report
            has is not known yet, and one over images would be too narrow.
        stop_reason: Why the cell stopped early: what cheaper attacks left has no rate of its own.
    """
    if stop_reason:
        return f"{stop_reason}, {format_passes_per_image(counts)}" if counts.n else stop_reason
    if cell.skip_reason or not counts.n:
        return (None if cell.problem else cell.skip_reason) or "no outcome"
    hits = f", {counts.broken} reached a target" if cell.threat.targets else ""
    silent = f", {counts.abstained} abstained" if counts.abstained else ""
    cost = f"{format_passes_per_image(counts)}, {counts.seconds:.1f} s"
    if cell.record.measure == "views":
        return f"{format_sticker_success(counts)}, {cost}"
    share = format_robust_share(counts, has_interval=not in_groups)
    return f"{format_robust_word(cell)} {share}{hits}{silent}, n = {counts.n:,}, {cost}"


def format_passes_per_image(counts: OutcomeCounts) -> str:
    """Format the mean number of passes of the finished images."""
    passes = (counts.forward_passes + counts.backward_passes) / max(counts.n, 1)
    return f"{format_count(round(passes), 'pass')} per image"


def format_rough_range(seconds: CostRange) -> str:
    """Format an estimate as ``about 4 min`` or a range, without figures that it does not have."""
    if seconds.high < _STEPS[0][1]:
        return "under 10 s"
    (low, low_unit), (high, high_unit) = (_round_duration(end) for end in (seconds.low, seconds.high))
    if (low, low_unit) == (high, high_unit):
        return f"about {high} {high_unit}"
    if low == "0":
        return f"under {high} {high_unit}"
    if low_unit == high_unit:
        return f"about {low}\N{EN DASH}{high} {high_unit}"
    return f"about {low} {low_unit}\N{EN DASH}{high} {high_unit}"


def _round_duration(seconds: float) -> tuple[str, str]:
    """Round to the step of the size: 10 s, 1 min, 5 min, half an hour, an hour."""
    for below, step, unit_seconds, unit in _STEPS:
        rounded = step * round(seconds / step)
        if rounded < below:
            return f"{rounded / unit_seconds:g}", unit
    return f"{round(seconds / 3600):,}", "h"
