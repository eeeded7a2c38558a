"""A watchdog for work in this process, where a hanging model cannot be ended on its own."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from types import TracebackType

from robustbench_local.classifier.pass_counter import count_finished_passes
from robustbench_local.errors import ModelTimeoutError

_HEARTBEAT_SECONDS = 0.5
"""Seconds between two checks."""
_DELIVERY_SECONDS = 0.05
"""Seconds that a sent interrupt may take to arrive."""
GRACE_SECONDS = 5.0
"""Seconds that a model may take to react to its interrupt, before this process has to be ended."""


class OverdueError(ModelTimeoutError):
    """Raised inside the work from another thread, which can pass no message along."""

    def __init__(self, *_ignored: object, **_options: object) -> None:
        remedy = "find out why it hangs, or raise --timeout or --cell-timeout"
        super().__init__("no pass finished in time, or the cell's time is over", remedy=remedy)


class Watchdog(AbstractContextManager["Watchdog"]):
    """Interrupts the thread that opened it when no pass finishes in time or the deadline passes.

    Python code receives an `OverdueError`. Code that never returns to Python, such as a call that waits for a
    GPU forever, cannot receive it: then another thread calls ``abort_hung_model``.

    Args:
        timeout: Seconds within which a pass has to finish; None or 0 for no limit.
        deadline: Time by `time.monotonic` at which all work has to be finished; None for no limit.
        abort_hung_model: Ends work that cannot be interrupted; receives the reason in one line.
    """

    def __init__(
        self,
        timeout: float | None,
        deadline: float | None,
        abort_hung_model: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._timeout, self._deadline, self._abort_hung_model = timeout or None, deadline, abort_hung_model
        self._watched_thread = threading.get_ident()
        self._closed = threading.Event()
        self._is_sent = False
        self._thread = threading.Thread(target=self._watch_progress, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        if self._timeout is not None or self._deadline is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching, and receive an exception that was sent but not raised yet.

        The exception is not revoked: in CPython 3.11 that leaves a flag behind with which a traced thread, as
        under a debugger or coverage, repeats one instruction forever.
        """
        self._closed.set()
        if self._is_sent and not (kind is not None and issubclass(kind, OverdueError)):
            with suppress(OverdueError):
                time.sleep(_DELIVERY_SECONDS)

    def _watch_progress(self) -> None:
        # An interrupt sent to a thread that waits in C makes CPython 3.11 repeat one instruction of
        # every traced thread forever, as under a debugger or coverage: this thread has to run untraced.
        sys.settrace(None)
        last_count, idle = count_finished_passes(), 0.0
        pause = min(_HEARTBEAT_SECONDS, (self._timeout or 1.0) / 4)
        while not self._closed.wait(pause):
            now = count_finished_passes()
            idle, last_count = (idle + pause if now == last_count else 0.0), now
            if self._timeout is not None and idle >= self._timeout:
                self._interrupt_thread(f"no pass finished for {self._timeout:g} s")
                return
            if self._deadline is not None and time.monotonic() > self._deadline:
                self._interrupt_thread("the cell's time is over")
                return

    def _interrupt_thread(self, why: str) -> None:
        self._is_sent, thread = True, ctypes.c_ulong(self._watched_thread)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(OverdueError))
        if not self._closed.wait(GRACE_SECONDS):
            self._abort_hung_model(why)
