"""The table of the plan, before anything runs."""

from __future__ import annotations

from rich.table import Table

from robustbench_local.cli.terminal_output import escape_text
from robustbench_local.counted_nouns import format_count
from robustbench_local.evaluation.planning.plan import Plan
from robustbench_local.reports.formatting.text import format_duration


def build_plan_table(plan: Plan, seconds: dict[str, float]) -> Table:
    """Build the table of the plan: cells, passes and the upper bound of their time.

    Args:
        plan: The plan.
        seconds: Maximum seconds by key of the cell, where known.
    """
    title = escape_text(f"{plan.name}: {format_count(len(plan.cells), 'cell')} on {plan.data.name}")
    table = Table(title=title, title_justify="left")
    for column in ("model", "attack"):
        table.add_column(column, overflow="fold")
    for column in ("images", "max. passes", "max. time"):
        table.add_column(column, justify="right")
    for cell in plan.cells:
        forward, backward = cell.max_passes
        most = seconds.get(cell.record.key)
        cost = (f"{forward + backward:,}", "unknown" if most is None else format_duration(most))
        standing = "error" if cell.problem else "skipped" if cell.skip_reason else None
        table.add_row(
            escape_text(plan.labels.get_model_label(cell.record.model, cell.record.defense)),
            escape_text(plan.labels.get_attack_label(cell.record.attack)),
            str(cell.image_count),
            *(cost if standing is None else (standing, "-")),
        )
    return table
