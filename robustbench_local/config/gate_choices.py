"""What a gate of the grid file may be about, and how it may decide."""

from __future__ import annotations

from typing import Literal

GateMetric = Literal[
    "robust_accuracy",
    "clean_accuracy",
    "attack_success",
    "median_distance",
    "certified_accuracy",
    "sticker_success",
]
"""What is limited."""
IntervalBound = Literal["lower", "estimate", "upper"]
"""Which end of the 95% interval, or the estimate itself, has to keep the limit."""
GateLevel = Literal["error", "warn"]
"""Whether a gate decides the exit code, or only warns."""
