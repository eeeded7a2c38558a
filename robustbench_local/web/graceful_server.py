"""The server process: it ends gracefully on SIGTERM and Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Generator

import uvicorn


class GracefulServer(uvicorn.Server):
    """Ends on SIGTERM and Ctrl-C without raising the signal again: a graceful stop is a success."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle signals while the server runs; a second one ends it at once."""
        before = {kind: signal.signal(kind, self.handle_exit) for kind in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)
