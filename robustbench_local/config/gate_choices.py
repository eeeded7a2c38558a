"""The choices of a gate in the grid file: its metric, the bound it checks and its level."""

from __future__ import annotations

from typing import Any, Literal

GateMetric = Literal[
    "robust_accuracy",
    "worst_class_robust_accuracy",
    "clean_accuracy",
    "attack_success",
    "median_distance",
    "certified_accuracy",
    "sticker_success",
    "resubmission_success",
    "p95_ms",
    "throughput",
]
"""The metric that a gate limits."""
CLASS_METRICS: frozenset[GateMetric] = frozenset(
    {"robust_accuracy", "clean_accuracy", "attack_success", "median_distance", "certified_accuracy"}
)
"""Metrics that a gate may limit for one class alone."""
LOAD_METRICS: frozenset[GateMetric] = frozenset({"p95_ms", "throughput"})
"""Metrics of load tests: no attack has to do with them."""
UNBOUNDED_METRICS: frozenset[GateMetric] = LOAD_METRICS | {"median_distance"}
"""Metrics that are no shares."""
IntervalBound = Literal["lower", "estimate", "upper"]
"""The end of the 95% interval, or the estimate itself, that must meet the limit."""
GateLevel = Literal["error", "warn"]
"""The effect of a failed gate: it decides the exit code, or only warns."""
TrustPolicy = Literal["require", "ignore"]
"""The effect of a diagnostic that finds the number not trustworthy: the gate is inconclusive, or may pass
all the same and says so."""


def check_load_gate(metric: str, gate: Any) -> None:
    """Check the keys that go with limits on load tests, and with them alone.

    Args:
        metric: The metric.
        gate: Anything with the keys of a gate.

    Raises:
        ValueError: If a key does not go with the metric, or the limit is on the wrong side.
    """
    if metric not in LOAD_METRICS:
        if gate.load is not None:
            raise ValueError(f"load goes with {' or '.join(sorted(LOAD_METRICS))}")
        return
    if (gate.max if metric == "p95_ms" else gate.min) is None:
        raise ValueError(f"{metric} is limited by {'max' if metric == 'p95_ms' else 'min'}")
    for key in ("threat", "attack", "true_class", "tries"):
        if getattr(gate, key) is not None:
            raise ValueError(f"a gate on {metric} takes no {key}")
