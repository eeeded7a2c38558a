"""A load on a service, and the figures that are measured under it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from robustbench_local.errors import ModelError
from robustbench_local.load_statistics import estimate_quantile, estimate_rate
from robustbench_local.load_test.http_connections import HttpConnections, RequestError
from robustbench_local.load_test.load_loops import (
    LoadWindow,
    draw_arrivals,
    run_closed_loop,
    run_open_loop,
)
from robustbench_local.load_test.wire_formats import Body, WireFormat
from robustbench_local.statistics import Estimate
from robustbench_local.store.load_test_records import Figure, LoadResult, LoopKind

SLICES = 20
"""Slices of the measured time, whose counts give the interval of the throughput."""
_MILLISECONDS = 1000.0


@dataclass(frozen=True)
class Load:
    """A way of sending requests: a closed loop of clients, or an open loop with a rate."""

    batch_size: int
    """Images in each request."""
    concurrency: int | None = None
    """Clients of a closed loop."""
    rate: float | None = None
    """Requests per second of an open loop."""

    @property
    def loop(self) -> LoopKind:
        """Which loop it is."""
        return "open" if self.concurrency is None else "closed"

    @property
    def name(self) -> str:
        """Its name in tables and gates."""
        how = f"r{self.rate:g}" if self.concurrency is None else f"c{self.concurrency}"
        return f"b{self.batch_size}-{how}"


@dataclass(frozen=True)
class LoadTiming:
    """Times of a load, in seconds, and the seed of its arrivals."""

    warmup: float
    """Before the measured time."""
    seconds: float
    """The measured time."""
    timeout: float
    """After which a request has failed."""
    seed: int = 0
    """Seed of the arrivals of an open loop."""


@dataclass
class BatchClient:
    """Sends batches in turn, and compares each answer with the first one for the same images."""

    connections: HttpConnections
    """Connections to the service."""
    wire: WireFormat
    """How images are sent and answers read."""
    bodies: Sequence[Body]
    """The batches."""
    expected: Sequence[Sequence[int]]
    """Classes that each batch was first answered with."""
    changed_images: int = field(default=0, init=False)
    """Images with another answer than the first one."""
    checked_images: int = field(default=0, init=False)
    """Images whose answers were compared."""

    async def send_batch(self, number: int) -> str:
        """Send a batch by its number; return the kind of the failure, empty if there is none."""
        place = number % len(self.bodies)
        body, expected = self.bodies[place], self.expected[place]
        try:
            answer = await self.connections.post_body(body.content, body.content_type)
        except RequestError as error:
            return error.kind
        if answer.status != 200:
            return f"status {answer.status}"
        try:
            labels = self.wire.read_labels(answer.content, len(expected))
        except ModelError:
            return "unreadable answer"
        self.checked_images += len(expected)
        self.changed_images += sum(one != first for one, first in zip(labels, expected, strict=True))
        return ""


async def measure_load(
    load: Load, client: BatchClient, timing: LoadTiming, *, ceiling: float | None = None
) -> tuple[LoadResult, LoadWindow]:
    """Put a load on a service.

    Args:
        load: The load.
        client: Sends its batches.
        timing: How long.
        ceiling: Images per second that the generator can send at most.

    Returns:
        The figures, and the requests behind them.
    """
    changed, checked, cpu = client.changed_images, client.checked_images, time.process_time()
    window = await _run_loop(load, client, timing)
    return summarize_window(
        load,
        window,
        changed_images=client.changed_images - changed,
        checked_images=client.checked_images - checked,
        ceiling=ceiling,
        generator_cpu_share=(time.process_time() - cpu) / (timing.warmup + timing.seconds),
    ), window


async def _run_loop(load: Load, client: BatchClient, timing: LoadTiming) -> LoadWindow:
    if load.concurrency is not None:
        return await run_closed_loop(
            client.send_batch,
            concurrency=load.concurrency,
            warmup=timing.warmup,
            seconds=timing.seconds,
            timeout=timing.timeout,
        )
    arrivals = draw_arrivals(load.rate or 1.0, timing.warmup + timing.seconds, timing.seed)
    return await run_open_loop(
        client.send_batch, arrivals, warmup=timing.warmup, seconds=timing.seconds, timeout=timing.timeout
    )


def summarize_window(
    load: Load,
    window: LoadWindow,
    *,
    changed_images: int,
    checked_images: int,
    ceiling: float | None,
    generator_cpu_share: float | None,
) -> LoadResult:
    """Summarize the requests of a load; arguments as the fields of the result."""
    latencies = [_MILLISECONDS * one.latency for one in window.counted]
    return LoadResult(
        name=load.name,
        loop=load.loop,
        batch_size=load.batch_size,
        concurrency=load.concurrency,
        rate=load.rate,
        seconds=window.end - window.begin,
        requests=len(latencies),
        throughput=Figure.from_estimate(estimate_throughput(load, window)),
        p50_ms=Figure.from_estimate(estimate_quantile(latencies, 0.5)),
        p95_ms=Figure.from_estimate(estimate_quantile(latencies, 0.95)),
        p99_ms=Figure.from_estimate(estimate_quantile(latencies, 0.99)),
        errors=window.errors,
        changed_images=changed_images,
        checked_images=checked_images,
        ceiling=ceiling,
        generator_cpu_share=generator_cpu_share,
    )


def estimate_throughput(load: Load, window: LoadWindow, level: float = 0.95) -> Estimate:
    """Estimate the answered images per second."""
    counts = [load.batch_size * count for count in window.count_answers(SLICES)]
    return estimate_rate(counts, (window.end - window.begin) / SLICES, level)
