"""What a reader of a load test has to know: problems of the service, and limits of the measurement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from robustbench_local.counted_nouns import format_count
from robustbench_local.reports.analysis.load_gates import is_generator_limited
from robustbench_local.store.load_test_records import (
    AccuracyRow,
    LoadFinding,
    LoadResult,
    SoakResult,
    TrendResult,
)

GENERATOR_CPU_SHARE = 0.9
"""CPU seconds of the generator per second above which it is too busy to send in time."""
BACKLOG_SHARE, MIN_BACKLOG = 0.1, 10
"""Share and number of the requests of an open loop that may still wait at the end of the measured time."""
_HINTS = {
    "status 429": "the service limits the rate: start it with --rate 0",
    "status 503": "its queue is full",
}
_QUANTITIES = {
    "throughput": ("throughput falls by", "images/s"),
    "latency": ("median latency rises by", "ms"),
    "memory": ("memory grows by", "MiB"),
}


def list_load_findings(
    loads: Sequence[LoadResult],
    soak: SoakResult | None,
    accuracies: Sequence[AccuracyRow],
    *,
    soak_asked: bool,
) -> list[LoadFinding]:
    """List the findings, problems of the service first.

    Args:
        loads: The loads.
        soak: The soak, if there was one.
        accuracies: Answers before and after.
        soak_asked: Whether a soak was asked for, so that trends which are missing have to be named.
    """
    every = [*loads, *([soak.load] if soak else ())]
    problems = [
        *_list_errors(every),
        *_list_changes(every, accuracies),
        *(_describe_alarm(trend) for trend in (soak.trends if soak else ()) if trend.is_alarm),
    ]
    notes = [*_list_limits(every), *_list_missing(soak, soak_asked=soak_asked)]
    return [
        *(LoadFinding(level="problem", text=text) for text in problems),
        *(LoadFinding(level="note", text=text) for text in notes),
    ]


def _list_errors(loads: Iterable[LoadResult]) -> Iterator[str]:
    for load in loads:
        if load.errors:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in load.errors.items())
            hints = [hint for kind, hint in _HINTS.items() if kind in load.errors]
            requests = format_count(load.requests, "request")
            tail = f"; {'; '.join(hints)}" if hints else ""
            yield f"{load.name}: {load.failed_requests:,} of {requests} failed ({kinds}){tail}"


def _list_changes(loads: Iterable[LoadResult], accuracies: Iterable[AccuracyRow]) -> Iterator[str]:
    for load in loads:
        if load.changed_images:
            images = format_count(load.checked_images, "image")
            yield f"{load.name}: {load.changed_images:,} of {images} got another answer than at first"
    for row in accuracies:
        if row.changed:
            images = format_count(row.n, "image")
            yield f"{row.images}: {row.changed:,} of {images} got another answer, or none, after the loads"


def _describe_alarm(trend: TrendResult) -> str:
    what, unit = _QUANTITIES[trend.quantity]
    scale = 1 << 20 if trend.quantity == "memory" else 1
    ends = sorted(abs(end) / scale for end in (trend.low, trend.high))
    part = "second half of the soak" if trend.quantity == "memory" else "soak"
    return (
        f"{what} {abs(trend.slope) / scale:.3g} {unit} a minute over the {part} "
        f"(99% interval {ends[0]:.3g} to {ends[1]:.3g}, p = {trend.p_value:.2g}, n = {trend.n:,})"
    )


def _list_limits(loads: Iterable[LoadResult]) -> Iterator[str]:
    for load in loads:
        rate = load.throughput.value or 0.0
        if load.ceiling and is_generator_limited(load):
            yield (
                f"{load.name}: {rate:.4g} images/s is {100 * rate / load.ceiling:.0f}% of what the generator "
                "can send at most, so the service may be faster"
            )
        if (load.generator_cpu_share or 0.0) > GENERATOR_CPU_SHARE:
            yield f"{load.name}: the generator used a whole CPU, and its latencies include its own delays"
        backlog = load.requests - load.failed_requests - round(rate * load.seconds / load.batch_size)
        if load.loop == "open" and backlog > max(MIN_BACKLOG, BACKLOG_SHARE * load.requests):
            requests = format_count(load.requests, "request")
            yield f"{load.name}: {backlog:,} of {requests} still waited at the end: the service is saturated"


def _list_missing(soak: SoakResult | None, *, soak_asked: bool) -> Iterator[str]:
    if not soak_asked:
        yield "no soak: nothing is known about drift and leaks"
        return
    known = {trend.quantity for trend in (soak.trends if soak else ())}
    for quantity in _QUANTITIES:
        if quantity not in known:
            yield f"the soak has too few values for a trend of {quantity}"
