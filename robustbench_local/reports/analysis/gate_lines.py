"""The verdict of a gate as one line of text, and the parts of that line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from robustbench_local.config.gate_choices import LOAD_METRICS, UNBOUNDED_METRICS
from robustbench_local.counted_nouns import format_count
from robustbench_local.reports.analysis.gate_types import (
    LOAD_UNITS,
    Gate,
    GateVerdict,
    format_limit_value,
    format_load_estimate,
    format_points,
    format_split,
)
from robustbench_local.reports.formatting.text import format_percent
from robustbench_local.statistics import Estimate

_BASES = {"lower": "lower bound", "estimate": "estimate", "upper": "upper bound"}


def format_verdict(verdict: GateVerdict) -> str:
    """Format a verdict in one line, such as ``FAIL  plain  robust_accuracy[linf-8] = 0.0% [0.0, 20.6] ...``.

    Model, metric and threat model are as in the grid file; value, interval and limit as in the report.
    """
    warning = ", warning only" if verdict.gate.level == "warn" and verdict.status in {"inconclusive"} else ""
    return (
        f"{verdict.status.upper()}  {format_subject(verdict)}  {format_result(verdict)}, "
        f"required {format_limit(verdict.gate)}{warning}"
    )


def format_passed_classes(verdicts: Sequence[GateVerdict]) -> str:
    """Format the classes that pass one gate in one line: the range of values and that of their intervals."""
    first = verdicts[0]
    name = format_metric(
        replace(first, gate=replace(first.gate, true_class=format_count(len(verdicts), "class")))
    )
    shares = [verdict.drop or verdict.estimate for verdict in verdicts]
    values, unit = [share.value for share in shares], " points" if first.gate.is_drop else "%"
    low, high = min(share.low for share in shares), max(share.high for share in shares)
    measured = f"{100 * min(values):.1f} to {100 * max(values):.1f}{unit} [{100 * low:.1f}, {100 * high:.1f}]"
    sizes = sorted(verdict.estimate.n for verdict in verdicts)
    sample = f"n={sizes[0]}" if sizes[0] == sizes[-1] else f"n={sizes[0]} to {sizes[-1]}"
    return (
        f"PASS  {format_subject(first)}  {name} = {measured} {sample} each, "
        f"required {format_limit(first.gate)}"
    )


def format_subject(verdict: GateVerdict) -> str:
    """Format the judged model; the one that the gate names if the run has none that it concerns."""
    nothing = "every model" if verdict.gate.is_drop else "no model"
    return str(verdict.subject) if verdict.subject else (verdict.gate.model or nothing)


def format_metric(verdict: GateVerdict) -> str:
    """Format what is judged, such as ``robust_accuracy[linf-8]``; an attack by its label in tables."""
    gate = verdict.gate
    details = [gate.threat or verdict.attack_label or gate.attack, gate.true_class]
    details += [f"{format_count(gate.tries, 'try')}" if gate.tries is not None else None, gate.load]
    inside = ", ".join(str(detail) for detail in details if detail is not None)
    name = f"{gate.metric}[{inside}]" if inside else gate.metric
    return f"{name} drop" if gate.is_drop else name


def format_result(verdict: GateVerdict) -> str:
    """Format what was measured: metric, value, interval and n."""
    metric = format_metric(verdict)
    if verdict.gate.is_drop:
        return f"{metric} {_format_drop(verdict)}"
    if not verdict.estimate.is_known:
        return f"{metric} not measured"
    if verdict.gate.metric in LOAD_METRICS:
        figure = f"{format_load_estimate(verdict.estimate)} {LOAD_UNITS[verdict.gate.metric]}"
        return f"{metric} = {figure} {_format_sample(verdict.estimate)}"
    ends = _format_distances if verdict.gate.metric == "median_distance" else _format_shares
    return f"{metric} = {ends(verdict.estimate)} {_format_sample(verdict.estimate)}"


def format_limit(gate: Gate) -> str:
    """Format the limit, such as ``>= 20% (lower bound)``."""
    sign = ">=" if gate.min is not None else "<="
    if gate.metric in UNBOUNDED_METRICS:
        limit = format_limit_value(gate)
    else:
        limit = format_points(gate.limit) if gate.is_drop else f"{100 * gate.limit:.4g}%"
    return f"{sign} {limit} ({_BASES[gate.bound]})"


def _format_shares(estimate: Estimate) -> str:
    return f"{format_percent(estimate.value)} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _format_distances(estimate: Estimate) -> str:
    value, low, high = (
        "beyond the search" if math.isinf(end) else f"{end:.3g}"
        for end in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low}, {high}]"


def _format_sample(estimate: Estimate) -> str:
    groups = f" in {format_count(estimate.groups, 'group')}" if estimate.groups else ""
    later = f", all attacks on {estimate.phases[-1]}" if estimate.phases else ""
    return f"n={estimate.n}{groups}{later}"


def _format_drop(verdict: GateVerdict) -> str:
    drop = verdict.drop
    if drop is None or not drop.is_known:
        return "not measured"
    groups = f" in {format_count(drop.groups, 'group')}" if drop.groups else ""
    interval = f"[{100 * drop.low:.1f}, {100 * drop.high:.1f}] n={drop.n}{groups}"
    return f"= {100 * drop.value:.1f} points {interval} ({format_split(drop)})"
