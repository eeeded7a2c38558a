"""Figures of load tests in words, the same at the terminal and in every form of the report."""

from __future__ import annotations

from robustbench_local.counted_nouns import format_count
from robustbench_local.reports.formatting.text import EN_DASH, MISSING_TEXT, format_amount, format_estimate
from robustbench_local.store.load_test_records import Figure, LoadResult, LoadTestRecord, TrendResult

LOAD_NAMES = "b: images in a request, c: clients, r: requests/s that arrive"
"""How to read the name of a load."""
_MEBIBYTE = 1 << 20


def format_figure(figure: Figure) -> str:
    """Format a figure with its interval: ``12.3 (11.9-14.0)``, with an en dash."""
    known = figure.to_estimate()
    if not known.is_known:
        return MISSING_TEXT
    return f"{format_amount(known.value)} ({format_amount(known.low)}{EN_DASH}{format_amount(known.high)})"


def format_load(load: LoadResult) -> str:
    """Format what a load is: ``8 images, 4 clients``, or ``1 image, 50 requests/s arrive``."""
    images = format_count(load.batch_size, "image")
    if load.concurrency is not None:
        return f"{images}, {format_count(load.concurrency, 'client')}"
    return f"{images}, {load.rate:g} requests/s arrive"


def format_errors(load: LoadResult) -> str:
    """Format the failed requests by kind; ``0`` without any."""
    if not load.errors:
        return "0"
    return ", ".join(f"{count:,} {kind}" for kind, count in load.errors.items())


def format_accuracy(figure: Figure) -> str:
    """Format an accuracy with interval and n; a dash without labels."""
    return format_estimate(figure.to_estimate()) if figure.n else MISSING_TEXT


def describe_trend(trend: TrendResult) -> str:
    """Describe a trend of the soak in one sentence."""
    scale, unit = (_MEBIBYTE, "MiB") if trend.quantity == "memory" else (1, "ms")
    if trend.quantity == "throughput":
        unit = "images/s"
    part = "second half of the soak" if trend.quantity == "memory" else "soak"
    slope, low, high = (f"{end / scale:+.3g}" for end in (trend.slope, trend.low, trend.high))
    verdict = "a trend that matters" if trend.is_alarm else "no trend that matters"
    return (
        f"{trend.quantity} over the {part}: {slope} {unit} a minute (99% interval {low} to {high}, "
        f"p = {trend.p_value:.2g}, n = {trend.n:,}): {verdict}"
    )


def describe_process(record: LoadTestRecord) -> str:
    """Describe memory and CPU of the service in one sentence; empty if they could not be read."""
    use = record.process
    if use is None:
        return ""
    start, end = (f"{size / _MEBIBYTE:,.1f} MiB" for size in (use.memory_at_start, use.memory_at_end))
    each = f", {1000 * use.cpu_seconds / use.images:.3g} ms for an image" if use.images else ""
    return f"memory {start} before and {end} after; CPU {use.cpu_seconds:,.1f} s{each} (from {use.source})"


def describe_setup(record: LoadTestRecord) -> str:
    """Describe how the figures were measured in one line."""
    ceilings = [load.ceiling for load in record.loads if load.ceiling]
    most = f"; the generator alone sends up to {max(ceilings):,.0f} images/s" if ceilings else ""
    best = (
        f"; capacity {format_figure(record.capacity)} images/s ({record.capacity_load}, the highest of all)"
        if record.capacity is not None
        else ""
    )
    return (
        f"sent: {record.images}; {record.warmup_seconds:g} s of warm-up before each load are not counted; "
        f"no retries, a failed request counts as slower than any other{most}{best}"
    )
