"""What a run was expected to cost and what it did, call by call, and the batch sizes that it measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

COSTS_KEY = "costs of each call"
"""Metadata: what each call of the run was expected to cost, and what it did."""
SIZES_KEY = "batch sizes"
"""Metadata: the measured batch size of each model."""
REASONS_KEY = "batch size reasons"
"""Metadata: why it is that size."""
REDUCED_KEY = "reduced batch sizes"
"""Metadata: the batch size of models, and of certificates on them, for which memory ran out before."""
COST_KEYS = (COSTS_KEY, SIZES_KEY, REASONS_KEY, REDUCED_KEY)
"""Metadata about costs."""
Ends = tuple[float, float]
"""Lower and upper end of an expectation."""


@dataclass(frozen=True, kw_only=True)
class CallCost:
    """What one call of a run took, beside what was expected; None for what is unknown."""

    seconds: float | None = None
    """Seconds from the plan to the end of the last cell."""
    expected_seconds: Ends | None = None
    """The same, expected after the first images."""
    max_seconds: float | None = None
    """Upper bound from the plan."""
    passes: float | None = None
    """Forward and backward passes of the images that the call finished."""
    expected_passes: Ends | None = None
    """The same, expected after the first images."""
    max_passes: float | None = None
    """Upper bound from the plan."""
    cpu_seconds: float | None = None
    """Seconds of CPU time over all processes."""
    peak_bytes: float | None = None
    """Peak memory of the largest process."""
    expected_peak_bytes: float | None = None
    """The same after the first images."""
    images_before_estimate: float | None = None
    """Number of images that the expectations rest on."""
    planned_passes: Ends | None = None
    """Passes of the whole plan, expected before the run from earlier runs."""
    planned_cpu_seconds: Ends | None = None
    """Seconds of CPU time of the whole plan, expected likewise."""

    @classmethod
    def from_json(cls, content: Any) -> CallCost:
        """Read what a run stored; what cannot be read is unknown."""
        stored = _read_mapping(content)
        plan = _read_mapping(stored.get("plan"))
        return cls(
            seconds=_read_number(stored.get("seconds")),
            expected_seconds=_read_ends(stored.get("expected_seconds")),
            max_seconds=_read_number(stored.get("max_seconds")),
            passes=_read_number(stored.get("passes")),
            expected_passes=_read_ends(stored.get("expected_passes")),
            max_passes=_read_number(stored.get("max_passes")),
            cpu_seconds=_read_number(stored.get("cpu_seconds")),
            peak_bytes=_read_number(stored.get("peak_bytes")),
            expected_peak_bytes=_read_number(stored.get("expected_peak_bytes")),
            images_before_estimate=_read_number(stored.get("images_before_estimate")),
            planned_passes=_read_ends(plan.get("passes")),
            planned_cpu_seconds=_read_ends(plan.get("cpu_seconds")),
        )


@dataclass(frozen=True, kw_only=True)
class BatchSizeRecord:
    """The batch size of a model, as a run measured it."""

    model: str
    """Name of the model, with its defense."""
    size: int
    """Images in a pass of each worker."""
    reason: str = ""
    """Why it is that size; empty if unknown."""
    reduced_to: int | None = None
    """Size after memory ran out during the run; None if it did not."""


def read_call_costs(costs: Any) -> tuple[CallCost, ...]:
    """Read the costs of each call.

    Args:
        costs: The metadata ``COSTS_KEY``.
    """
    return tuple(map(CallCost.from_json, costs)) if isinstance(costs, list) else ()


def read_batch_sizes(sizes: Any, reasons: Any, reduced: Any) -> tuple[BatchSizeRecord, ...]:
    """Read the batch sizes of all models.

    Args:
        sizes: The metadata ``SIZES_KEY``.
        reasons: The metadata ``REASONS_KEY``.
        reduced: The metadata ``REDUCED_KEY``.
    """
    known, why, less = map(_read_mapping, (sizes, reasons, reduced))
    return tuple(
        BatchSizeRecord(
            model=str(model),
            size=size,
            reason=str(why.get(model, "")),
            reduced_to=less[model] if _is_count(less.get(model)) else None,
        )
        for model, size in known.items()
        if _is_count(size)
    )


def _read_mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _read_number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _read_ends(value: Any) -> Ends | None:
    """Read ``[low, high]`` or ``{low, value, high}``."""
    if isinstance(value, Mapping):
        value = [value.get("low"), value.get("high")]
    if not isinstance(value, Sequence) or len(value) != 2:
        return None
    low, high = map(_read_number, value)
    return None if low is None or high is None else (low, high)
