"""The choices of a gate in the grid file: its metric, the bound it checks and its level."""

from __future__ import annotations

from typing import Literal

GateMetric = Literal[
    "robust_accuracy",
    "worst_class_robust_accuracy",
    "clean_accuracy",
    "attack_success",
    "median_distance",
    "certified_accuracy",
    "sticker_success",
    "resubmission_success",
]
"""The metric that a gate limits."""
CLASS_METRICS: frozenset[GateMetric] = frozenset(
    {"robust_accuracy", "clean_accuracy", "attack_success", "median_distance", "certified_accuracy"}
)
"""Metrics that a gate may limit for one class alone."""
IntervalBound = Literal["lower", "estimate", "upper"]
"""The end of the 95% interval, or the estimate itself, that must meet the limit."""
GateLevel = Literal["error", "warn"]
"""The effect of a failed gate: it decides the exit code, or only warns."""
TrustPolicy = Literal["require", "ignore"]
"""The effect of a diagnostic that finds the number not trustworthy: the gate is inconclusive, or may pass
all the same and says so."""
