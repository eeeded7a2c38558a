"""The intervals that a run stores for its gates, so that judging them again does not wait for scipy."""

from __future__ import annotations

import math
from typing import Any

from robustbench_local.interval_table import IntervalTable
from robustbench_local.store import RunStore

INTERVALS_KEY = "intervals of the gates"
"""Key under which a run stores them: a list of count, n, level, lower end and upper end; count and n once for
each phase of the estimate."""
_ROUNDING = 1e-9


def read_intervals(store: RunStore) -> IntervalTable:
    """Read the stored intervals; an entry that cannot be one is left out, so that it is computed again."""
    table: IntervalTable = {}
    for row in store.read_meta(INTERVALS_KEY, ()):
        match row:
            case [int(count), int(n), float(level), float(low), float(high)] if n > 0:
                if 0 <= low <= count / n <= high <= 1:
                    table[count, n, level] = (low, high)
            case [int(), int(), int(), int(), *_]:
                table.update(_read_phased_interval(row))
    return table


def _read_phased_interval(row: list[Any]) -> IntervalTable:
    """Read the interval of an estimate of several phases; empty if the row cannot be one."""
    *counts, level, low, high = row
    if len(counts) % 2 or not all(isinstance(count, int) for count in counts):
        return {}
    if not all(isinstance(end, float) for end in (level, low, high)):
        return {}
    pairs = list(zip(counts[::2], counts[1::2], strict=True))
    value = math.prod(robust / attacked for robust, attacked in pairs if attacked > 0)
    # the stored ends are rounded
    is_possible = 0 <= low <= value + _ROUNDING and value <= high + _ROUNDING and high <= 1
    return {(*counts, level): (low, high)} if is_possible else {}


def encode_intervals(table: IntervalTable) -> dict[str, Any]:
    """Encode intervals as metadata of a run."""
    return {INTERVALS_KEY: [[*key, *ends] for key, ends in sorted(table.items())]}
