"""A limit on the rate of each client: a token bucket per address."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

MAX_CLIENTS = 10_000
"""Number of clients that are remembered; the one that was silent the longest is forgotten first."""


class RateLimiter:
    """Token buckets: a client may send ``burst`` requests at once, and ``rate`` per second in the long run.

    Args:
        rate: Requests per second; 0 for any number.
        burst: Size of the bucket, at least 1.
        read_clock: Seconds of a clock that never goes back.
    """

    def __init__(self, rate: float, burst: int, read_clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._read_clock = rate, burst, read_clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take_token(self, client: str) -> int:
        """Count a request of a client.

        Returns:
            0 if it may be answered; else whole seconds until the next one may be, at least 1.
        """
        if not self._rate:
            return 0
        now = self._read_clock()
        tokens, last = self._buckets.pop(client, (float(self._burst), now))
        tokens = min(float(self._burst), tokens + (now - last) * self._rate)
        is_allowed = tokens >= 1
        self._buckets[client] = (tokens - 1 if is_allowed else tokens, now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return 0 if is_allowed else max(1, math.ceil((1 - tokens) / self._rate))
