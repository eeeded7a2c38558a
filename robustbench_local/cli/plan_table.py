"""The table of the plan, before anything runs, and its expected costs in words."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from robustbench_local.cli.terminal_output import escape_text
from robustbench_local.counted_nouns import choose_form, format_count
from robustbench_local.evaluation.execution.cost_range import CostRange
from robustbench_local.evaluation.execution.plan_cost import ExpectedCellCost, ExpectedPlanCost
from robustbench_local.evaluation.planning.plan import CellSpec, Plan
from robustbench_local.evaluation.planning.shard_positions import build_shard_record
from robustbench_local.reports.formatting.text import EN_DASH, format_duration, format_mebibytes


def build_plan_table(
    plan: Plan, seconds: Mapping[str, float], expected: Mapping[str, ExpectedCellCost] | None = None
) -> Table:
    """Build the table of the plan: cells, passes and time, expected where known and at most.

    Args:
        plan: The plan.
        seconds: Maximum seconds by key of the cell, where known.
        expected: Expected costs by key of the cell; the table has no such columns if none is known.
    """
    record = build_shard_record(plan)
    part = "" if record is None else f", {record.title}"
    title = escape_text(f"{plan.name}: {format_count(len(plan.cells), 'cell')} on {plan.data.name}{part}")
    table = Table(title=title, title_justify="left")
    costs = expected or {}
    has_expected = any(cost.passes is not None for cost in costs.values())
    for column in ("model", "attack"):
        table.add_column(column, overflow="fold")
    for column in ("images", "max. passes", "their time"):
        table.add_column(column, justify="right")
    if has_expected:
        table.add_column("expected passes", justify="right")
        table.add_column("CPU time", justify="right")
        table.add_column("from", overflow="fold")
    for cell in plan.cells:
        forward, backward = cell.max_passes
        most = seconds.get(cell.record.key)
        cost = (f"{forward + backward:,}", "unknown" if most is None else format_duration(most))
        standing = "error" if cell.problem else "skipped" if cell.skip_reason else None
        table.add_row(
            escape_text(plan.labels.get_model_label(cell.record.model, cell.record.defense)),
            escape_text(plan.labels.get_attack_label(cell.record.attack)),
            f"{cell.image_count:,}",
            *(cost if standing is None else (standing, "-")),
            *(map(escape_text, _format_expected(cell, costs)) if has_expected else ()),
        )
    return table


def _format_expected(cell: CellSpec, costs: Mapping[str, ExpectedCellCost]) -> tuple[str, str, str]:
    cost = costs.get(cell.record.key)
    if cost is None:
        return "-", "-", ""
    passes = "unknown" if cost.passes is None else format_passes(cost.passes)
    cpu = "unknown" if cost.cpu_seconds is None else format_duration(cost.cpu_seconds.value)
    return passes, cpu, cost.source


def format_passes(passes: CostRange) -> str:
    """Format expected passes with their range, to three figures: ``12,300 (9,800-15,100)``."""
    low, value, high = (_round_figures(end) for end in (passes.low, passes.value, passes.high))
    return f"{value:,}" if low == high else f"{value:,} ({low:,}{EN_DASH}{high:,})"


def _round_figures(number: float) -> int:
    return round(float(f"{number:.3g}"))


def format_seconds(seconds: CostRange) -> str:
    """Format an expected time with its range: ``4.2 s (3.1-5.6 s)``."""
    ends = f"{format_duration(seconds.low)}{EN_DASH}{format_duration(seconds.high)}"
    return f"{format_duration(seconds.value)} ({ends})"


def list_cost_lines(plan: Plan, expected: ExpectedPlanCost) -> list[str]:
    """List the expected cost of the whole plan in words, and what it rests on; empty if none is known.

    Args:
        plan: The plan.
        expected: Its expected cost.
    """
    known = [cost for cost in expected.cells.values() if cost.passes is not None]
    if not known:
        return []
    device = plan.subjects[0].classifier.device.type
    kind = "CPU time" if device == "cpu" else f"time on {device}"
    line = f"expected: {format_passes(expected.passes)} passes"
    if expected.cpu_seconds.value:
        line += f", {format_seconds(expected.cpu_seconds)} of {kind}"
        workers = max(cost.workers for cost in known)
        if workers > 1:
            line += f", {format_seconds(expected.seconds)} with {workers} workers on a core each"
    lines = [f"{line}; the ranges cover four in five such estimates"]
    if plan.stop is not None:
        lines[0] += "; for all images, while the run may stop early"
    if expected.peak_bytes:
        unit = "largest process" if device == "cpu" else "tensors on the device"
        lines.append(f"memory: about {format_mebibytes(expected.peak_bytes)} for the {unit}")
    if expected.unknown_cells:
        count = format_count(expected.unknown_cells, "cell")
        verb = choose_form(expected.unknown_cells, "is", "are")
        lines.append(f"of {count} only the upper bound is known, which {verb} in no sum")
    return lines
