"""Regular signs of life of a run whose output is a log or a program."""

from __future__ import annotations

import threading
from collections.abc import Callable

MIN_HEARTBEAT_SECONDS = 15.0
"""Seconds between two lines about progress at the beginning of a run."""
MAX_HEARTBEAT_SECONDS = 300.0
"""Seconds between two of them in a run of hours, whose log would otherwise have thousands."""
HEARTBEAT_SHARE = 0.05
"""In between, the share of the time so far."""
_CHECK_SECONDS = 1.0
"""Seconds between two looks at the clock."""


def choose_heartbeat_seconds(elapsed: float) -> float:
    """Return the seconds between two lines about progress.

    Args:
        elapsed: Seconds since the run began.
    """
    return min(max(HEARTBEAT_SHARE * elapsed, MIN_HEARTBEAT_SECONDS), MAX_HEARTBEAT_SECONDS)


class Heartbeat:
    """A thread that calls a function every second between start and stop.

    Args:
        beat: The function; it decides whether a line is due.
    """

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; a second call has no effect."""
        self._stopped.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(_CHECK_SECONDS):
            self._beat()
