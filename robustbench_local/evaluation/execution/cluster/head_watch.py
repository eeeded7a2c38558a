"""A watch over the head of a cluster, the node that holds the cluster's own state.

Ray ends a process that has been without the head for a minute, in the middle of whatever it does and with the
exit code of a failed gate. The watch notices sooner, so that the run ends with a reason and its own code.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

PAUSE_SECONDS = 3.0
"""Seconds between two checks."""
CONNECT_SECONDS = 5.0
"""Seconds within which the head has to accept a connection; a busy one accepts at once."""
MAX_FAILURES = 5
"""Number of checks that fail one after another before the head counts as lost: 15 to 40 seconds."""
LOST_HEAD = "the head of the cluster at {address} does not answer; start the cluster again"
"""What is wrong, and what to do."""


class HeadWatch(AbstractContextManager["HeadWatch"]):
    """Checks, while it is open, that the head of a cluster accepts connections.

    Args:
        address: ``HOST:PORT`` of the cluster's own state.
        abandon_run: Called once, in another thread, when the head is lost; receives the reason in one line.
        can_connect: Tries the address.
        pause_seconds: Seconds between two checks.
    """

    def __init__(
        self,
        address: str,
        abandon_run: Callable[[str], None],
        *,
        can_connect: Callable[[str], bool] | None = None,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        self._address, self._abandon_run = address, abandon_run
        self._can_connect, self._pause = can_connect or can_connect_to, pause_seconds
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch_head, name="head watch", daemon=True)

    def __enter__(self) -> HeadWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()

    def _watch_head(self) -> None:
        failures = 0
        while not self._closed.wait(self._pause):
            failures = 0 if self._can_connect(self._address) else failures + 1
            if failures >= MAX_FAILURES and not self._closed.is_set():
                self._abandon_run(LOST_HEAD.format(address=self._address))
                return


def can_connect_to(address: str) -> bool:
    """Check whether something accepts connections at ``HOST:PORT``."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS):
            return True
    except OSError:
        return False
