"""Closed and open loops of requests; time is that of the event loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Send = Callable[[int], Awaitable[str]]
"""Sends the request of a number and returns the kind of its failure; empty if it was answered."""
ERROR_PAUSE_SECONDS = 0.1
"""Time that a client waits after a failure: a service that refuses at once is not flooded."""
TIMEOUT_KIND = "timeout"


@dataclass(frozen=True)
class SentRequest:
    """A request and what became of it."""

    start: float
    """When it was sent; in an open loop when it was meant to be sent, whatever happened in between."""
    end: float
    """When it was answered or failed."""
    error: str
    """Kind of its failure; empty if it was answered."""

    @property
    def latency(self) -> float:
        """Seconds to the answer; infinite if it failed."""
        return float("inf") if self.error else self.end - self.start


@dataclass(frozen=True)
class LoadWindow:
    """The requests of a load, and the time in which they count."""

    begin: float
    """Begin of the measured time: the end of the warm-up."""
    end: float
    """Its end."""
    requests: Sequence[SentRequest]
    """All requests, in the order of their start."""

    @property
    def counted(self) -> list[SentRequest]:
        """The requests that were meant to be sent in the measured time, also those answered after it."""
        return [one for one in self.requests if self.begin <= one.start < self.end]

    @property
    def errors(self) -> dict[str, int]:
        """Failed requests by kind, the most frequent first."""
        return dict(Counter(one.error for one in self.counted if one.error).most_common())

    def count_answers(self, slices: int) -> list[int]:
        """Count the answered requests in equal slices of the measured time."""
        counts, length = [0] * slices, (self.end - self.begin) / slices
        for one in self.requests:
            if not one.error and self.begin <= one.end < self.end:
                counts[min(slices - 1, int((one.end - self.begin) / length))] += 1
        return counts


@dataclass
class _Recorder:
    """Sends requests and keeps what became of them."""

    send: Send
    timeout: float
    requests: list[SentRequest] = field(default_factory=list)
    number: int = 0

    async def send_next(self, start: float) -> str:
        loop, number = asyncio.get_running_loop(), self.number
        self.number += 1
        try:
            async with asyncio.timeout_at(start + self.timeout):
                error = await self.send(number)
        except TimeoutError:
            error = TIMEOUT_KIND
        self.requests.append(SentRequest(start, loop.time(), error))
        return error


async def run_closed_loop(
    send: Send, *, concurrency: int, warmup: float, seconds: float, timeout: float
) -> LoadWindow:
    """Send requests from clients that each wait for their answer before the next request.

    Args:
        send: Sends a request.
        concurrency: Number of clients.
        warmup: Seconds before the measured time.
        seconds: Measured time; requests sent in it are waited for after its end.
        timeout: Seconds after which a request has failed.
    """
    loop = asyncio.get_running_loop()
    recorder = _Recorder(send, timeout)
    begin = loop.time() + warmup
    end = begin + seconds

    async def run_client() -> None:
        while (now := loop.time()) < end:
            if await recorder.send_next(now):
                await asyncio.sleep(min(ERROR_PAUSE_SECONDS, max(0.0, end - loop.time())))

    await _gather_tasks([asyncio.create_task(run_client()) for _ in range(concurrency)])
    return _close_window(begin, end, recorder)


async def run_open_loop(
    send: Send, arrivals: Sequence[float], *, warmup: float, seconds: float, timeout: float
) -> LoadWindow:
    """Send requests at given times, whether or not earlier ones are answered.

    The latency counts from the time that a request was meant to be sent, so that a service which stalls is
    charged for the requests that piled up meanwhile (Tene 2013, coordinated omission).

    Args:
        send: Sends a request.
        arrivals: Seconds from the begin of the warm-up, ascending.
        warmup: Seconds before the measured time.
        seconds: Measured time; requests sent in it are waited for after its end.
        timeout: Seconds after which a request has failed, from the time that it was meant to be sent.
    """
    loop = asyncio.get_running_loop()
    recorder = _Recorder(send, timeout)
    start = loop.time()
    begin = start + warmup
    tasks: list[asyncio.Task[str]] = []
    try:
        for arrival in arrivals:
            delay = start + arrival - loop.time()
            if delay > 0:
                await asyncio.sleep(delay)
            tasks.append(asyncio.create_task(recorder.send_next(start + arrival)))
    finally:
        await _gather_tasks(tasks)
    return _close_window(begin, begin + seconds, recorder)


def draw_arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Draw the times of a Poisson process, in seconds from its begin.

    Args:
        rate: Requests per second.
        seconds: Length of the process.
        seed: Seed of the draws.
    """
    import numpy as np  # noqa: PLC0415 - only open loops draw

    draws, now, arrivals = np.random.default_rng(seed), 0.0, []
    while (now := now + float(draws.exponential(1 / rate))) < seconds:
        arrivals.append(now)
    return arrivals


async def _gather_tasks(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Wait for tasks; if one raises, or the wait is cancelled, none goes on."""
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _close_window(begin: float, end: float, recorder: _Recorder) -> LoadWindow:
    return LoadWindow(begin, end, sorted(recorder.requests, key=lambda one: one.start))
