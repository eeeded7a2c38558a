"""The behaviour of a service over time: trends of throughput, latency and memory under one load."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from statistics import median
from typing import Literal

from robustbench_local.load_statistics import TREND_BLOCKS, Trend, estimate_trend
from robustbench_local.load_test.load_loops import LoadWindow
from robustbench_local.load_test.measured_load import BatchClient, Load, LoadTiming, measure_load
from robustbench_local.load_test.service import ProcessReading
from robustbench_local.store.load_test_records import SoakResult, TrendResult

MIN_SOAK_SAMPLES = 4 * TREND_BLOCKS
"""Samples of a soak: half of them have to be enough for a trend."""
DRIFT_SHARE = 0.1
"""Change over the soak, as a share of its begin, from which a trend of throughput or latency matters."""
LEAK_BYTES = 1 << 20
"""Growth over the second half of the soak from which a trend of memory matters: allocators grow by as much
without any leak."""
SAMPLES_PER_SOAK = 60
"""Samples of memory, and slices of throughput and latency."""
_MINUTE = 60.0
ReadUse = Callable[[], Awaitable[ProcessReading | None]]


async def run_soak(
    load: Load, client: BatchClient, timing: LoadTiming, read_use: ReadUse, *, ceiling: float | None = None
) -> SoakResult:
    """Put a load on a service for a longer time, and look for trends.

    Args:
        load: The load.
        client: Sends its batches.
        timing: How long.
        read_use: Reads the memory of the service.
        ceiling: As for ``measure_load``.
    """
    samples: list[tuple[float, float]] = []
    sampler = asyncio.create_task(_sample_memory(samples, timing, read_use))
    try:
        result, window = await measure_load(load, client, timing, ceiling=ceiling)
    finally:
        sampler.cancel()
        await asyncio.gather(sampler, return_exceptions=True)
    return SoakResult(load=result, trends=tuple(find_trends(load, window, samples)))


async def _sample_memory(samples: list[tuple[float, float]], timing: LoadTiming, read_use: ReadUse) -> None:
    """Read the memory again and again, from the end of the warm-up until cancelled."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(timing.warmup)
    start, step = loop.time(), timing.seconds / SAMPLES_PER_SOAK
    for number in range(SAMPLES_PER_SOAK):
        await asyncio.sleep(max(0.0, start + number * step - loop.time()))
        reading = await read_use()
        if reading is not None:
            samples.append((loop.time() - start, float(reading.memory_bytes)))


def find_trends(load: Load, window: LoadWindow, memory: Sequence[tuple[float, float]]) -> list[TrendResult]:
    """Find the trends of a soak.

    Args:
        load: The load.
        window: Its requests.
        memory: Seconds from the begin and resident bytes.
    """
    seconds = window.end - window.begin
    step = seconds / SAMPLES_PER_SOAK
    middles = [(number + 0.5) * step for number in range(SAMPLES_PER_SOAK)]
    rates = [load.batch_size * count / step for count in window.count_answers(SAMPLES_PER_SOAK)]
    results = [_judge_drift("throughput", middles, rates, seconds)]
    slices: list[list[float]] = [[] for _ in middles]
    for one in window.counted:
        if not one.error:
            slices[min(SAMPLES_PER_SOAK - 1, int((one.start - window.begin) / step))].append(one.latency)
    answered = [(when, 1000 * median(part)) for when, part in zip(middles, slices, strict=True) if part]
    results.append(
        _judge_drift("latency", [when for when, _ in answered], [one for _, one in answered], seconds)
    )
    results.append(judge_memory([when for when, _ in memory], [size for _, size in memory]))
    return [result for result in results if result is not None]


def _judge_drift(
    quantity: Literal["throughput", "latency"],
    times: Sequence[float],
    values: Sequence[float],
    seconds: float,
) -> TrendResult | None:
    """Judge a trend: throughput must not fall, and latency must not rise, by ``DRIFT_SHARE`` in the soak."""
    trend = estimate_trend(times, values)
    if trend is None:
        return None
    start = median(values[: max(1, len(values) // TREND_BLOCKS)])
    worse = -trend.slope if quantity == "throughput" else trend.slope
    is_alarm = trend.has_trend and worse * seconds >= DRIFT_SHARE * start > 0
    return _build_result(quantity, trend, start, is_alarm=is_alarm)


def judge_memory(times: Sequence[float], sizes: Sequence[float]) -> TrendResult | None:
    """Judge the growth of memory over the second half of a soak: in the first, caches and pools fill.

    It is a leak if the growth is a trend, and even the lower end of its slope comes to ``LEAK_BYTES``.

    Args:
        times: Seconds.
        sizes: Resident bytes.

    Returns:
        The trend over the second half; None with too few samples.
    """
    if len(sizes) < MIN_SOAK_SAMPLES:
        return None
    half = len(sizes) // 2
    trend = estimate_trend(times[half:], sizes[half:])
    if trend is None:
        return None
    growth = trend.low * (times[-1] - times[half])
    return _build_result(
        "memory", trend, median(sizes[half : half + 2]), is_alarm=trend.has_trend and growth >= LEAK_BYTES
    )


def _build_result(
    quantity: Literal["throughput", "latency", "memory"], trend: Trend, start: float, *, is_alarm: bool
) -> TrendResult:
    slope, low, high = (
        _MINUTE * end if math.isfinite(end) else 0.0 for end in (trend.slope, trend.low, trend.high)
    )
    return TrendResult(
        quantity=quantity,
        slope=slope,
        low=low,
        high=high,
        p_value=trend.p_value,
        n=trend.n,
        start=start,
        is_alarm=is_alarm,
    )
