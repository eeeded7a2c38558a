"""A cache of results, so that all forms and sections of a report compute each of them once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import TypeVar

from robustbench_local.reports.analysis.evidence import Evidence

Derived = TypeVar("Derived")
Item = TypeVar("Item")


def compute_once(compute: Callable[[Evidence], Derived]) -> Callable[[Evidence], Derived]:
    """A function of evidence whose result is kept with the evidence.

    Several forms and sections of a report ask for the same results; each is computed at the first request.
    """
    name = f"{compute.__module__}.{compute.__qualname__}"

    @wraps(compute)
    def get_result(evidence: Evidence) -> Derived:
        if name not in evidence.derived:
            evidence.derived[name] = compute(evidence)
        result: Derived = evidence.derived[name]
        return result

    return get_result


def collect_once(find: Callable[[Evidence], Iterable[Item]]) -> Callable[[Evidence], tuple[Item, ...]]:
    """The same for a function that finds several things: all of them as a tuple."""

    @wraps(find)
    def find_all(evidence: Evidence) -> tuple[Item, ...]:
        return tuple(find(evidence))

    return compute_once(find_all)
