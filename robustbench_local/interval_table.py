"""A table of intervals that were computed before, so that a run is judged again without waiting for scipy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar

IntervalTable = MutableMapping[tuple[float, ...], tuple[float, float]]
"""(count, n, level) -> ends of the Clopper-Pearson interval, rounded as in an `Estimate`. With several pairs
of count and n: ends of the interval of an estimate of so many phases."""
_interval_table: ContextVar[IntervalTable | None] = ContextVar("interval_table", default=None)


@contextmanager
def use_interval_table(table: IntervalTable) -> Iterator[None]:
    """Look intervals up in a table while the context is open, and add those that it lacks.

    Args:
        table: Intervals, such as those that a run stores for its gates: a gate that needs no others is judged
            without scipy, whose import takes longer than the judgement.
    """
    token = _interval_table.set(table)
    try:
        yield
    finally:
        _interval_table.reset(token)


def look_up_ends(key: tuple[float, ...], compute: Callable[[], tuple[float, float]]) -> tuple[float, float]:
    """Look the ends of an interval up in the open table, or compute them and add them to it.

    Args:
        key: Counts and level, as in an `IntervalTable`.
        compute: Computes the ends; called if there is no table, or it lacks them.
    """
    table = _interval_table.get()
    if table is None:
        return compute()
    if key not in table:
        table[key] = compute()
    return table[key]
