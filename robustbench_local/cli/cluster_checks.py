"""The checks of ``rbl doctor --executor ray``: what a cluster has, and whether its nodes fit together."""

from __future__ import annotations

from rich.console import Console

from robustbench_local.cli.terminal_output import escape_text, join_text, print_line
from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import RobustbenchError
from robustbench_local.evaluation.execution.cluster.cluster_settings import ClusterSettings
from robustbench_local.evaluation.execution.cluster.connection import (
    check_nodes,
    connect_to_cluster,
    list_nodes,
)
from robustbench_local.evaluation.execution.cluster.nodes import (
    CheckedNode,
    choose_gpus_per_task,
    count_task_slots,
)

PROBLEM_EXIT_CODE = 3


def check_cluster(address: str | None) -> int:
    """Describe a cluster: nodes, versions, what differs, and how many tasks fit.

    Args:
        address: Its address; None for one on this machine.

    Returns:
        The exit code: 3 if a node cannot take work, or there is no cluster.
    """
    console = Console()
    try:
        with connect_to_cluster(ClusterSettings(address=address)) as ray:
            checked = check_nodes(ray, list_nodes(ray))
            version = f"Ray {ray.__version__}, {format_count(len(checked), 'node')}"
    except RobustbenchError as problem:
        _print_result(console, "cluster", str(problem), is_ok=False)
        return PROBLEM_EXIT_CODE
    _print_result(console, "cluster", version, is_ok=True)
    for entry in checked:
        _print_result(console, "node", describe_node(entry), is_ok=not entry.differences)
    usable = [entry.node for entry in checked if not entry.differences]
    gpus = choose_gpus_per_task(usable, None, allows_gpus=True)
    slots = count_task_slots(usable, gpus)
    each = f"one CPU and {gpus:g} GPU" if gpus else "one CPU"
    _print_result(console, "tasks", f"{slots} at a time, with {each} each", is_ok=slots > 0)
    return PROBLEM_EXIT_CODE if len(usable) < len(checked) or not slots else 0


def describe_node(entry: CheckedNode) -> str:
    """Describe a node in one line, with what differs on it."""
    differences = "; ".join(entry.differences)
    return f"{entry}: it gets no work: {differences}" if differences else str(entry)


def _print_result(console: Console, name: str, line: str, *, is_ok: bool) -> None:
    mark = escape_text("ok", "green") if is_ok else escape_text("problem", "red")
    print_line(console, join_text(mark, f"{'       ' if is_ok else '  '}{name}: {line}"))
