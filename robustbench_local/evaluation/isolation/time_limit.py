"""A time limit for user code that has to run in this process, such as loading a model again."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from robustbench_local.errors import ModelTimeoutError


@contextmanager
def limit_time(seconds: float | None, name: str) -> Iterator[None]:
    """Interrupt code that exceeds a time limit, even while it sleeps or waits for a lock.

    It uses a signal, so it works only in the main thread of a system that has signals; elsewhere there is no
    limit. The previous handler of the signal is restored afterwards.

    Args:
        seconds: The limit; None or 0 for none.
        name: Name of the model in messages.

    Raises:
        ModelTimeoutError: When the limit is reached.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not seconds or not in_main or not hasattr(signal, "setitimer"):
        yield
        return

    def interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
        what = f"was loaded once, and takes more than {seconds:g} s to be loaded again"
        raise ModelTimeoutError(what, where=name, remedy="find out why it hangs, or raise --timeout")

    before = signal.signal(signal.SIGALRM, interrupt)
    remaining, every = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, remaining, every)
        signal.signal(signal.SIGALRM, before)
