"""The intervals that a run stores for its gates, so that judging them again does not wait for scipy."""

from __future__ import annotations

from typing import Any

from robustbench_local.statistics import IntervalTable
from robustbench_local.store import RunStore

INTERVALS_KEY = "intervals of the gates"
"""Key under which a run stores them: a list of count, n, level, lower end and upper end."""


def read_intervals(store: RunStore) -> IntervalTable:
    """Read the stored intervals; an entry that cannot be one is left out, so that it is computed again."""
    table: IntervalTable = {}
    for row in store.read_meta(INTERVALS_KEY, ()):
        match row:
            case [int(count), int(n), float(level), float(low), float(high)] if n > 0:
                if 0 <= low <= count / n <= high <= 1:
                    table[count, n, level] = (low, high)
    return table


def encode_intervals(table: IntervalTable) -> dict[str, Any]:
    """Encode intervals as metadata of a run."""
    return {INTERVALS_KEY: [[*key, *ends] for key, ends in sorted(table.items())]}
