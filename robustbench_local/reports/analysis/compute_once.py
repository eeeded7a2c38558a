"""A cache of results, so that all forms and sections of a report compute each of them once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import TypeVar

from robustbench_local.reports.analysis.evidence import Evidence

Derived = TypeVar("Derived")
Item = TypeVar("Item")


def compute_once(compute: Callable[[Evidence], Derived]) -> Callable[[Evidence], Derived]:
    """Wrap a function of evidence and store its result with the evidence.

    Several forms and sections of a report request the same results; the first request computes them.
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
    """Wrap a function that yields several items; the stored result is a tuple."""

    @wraps(find)
    def find_all(evidence: Evidence) -> tuple[Item, ...]:
        return tuple(find(evidence))

    return compute_once(find_all)
