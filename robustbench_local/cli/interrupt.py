"""Ctrl-C and SIGTERM: the current record is finished first; a swallowed interrupt is raised again."""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn

REPEAT_SECONDS = 10.0
"""Seconds after which an interrupt is raised again: Python drops one that is raised where it cannot be
caught, such as in a destructor, and the run would go on for hours."""


def install_signal_handlers() -> None:
    """Make Ctrl-C, SIGTERM and a closed terminal interrupt this process until `cancel_repeat`.

    A process that was started to outlive its terminal (``nohup``) ignores SIGHUP.
    """
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM")
    for kind in (getattr(signal, name) for name in names if hasattr(signal, name)):
        if signal.getsignal(kind) != signal.SIG_IGN or kind != getattr(signal, "SIGHUP", None):
            signal.signal(kind, _raise_interrupt)


def cancel_repeat() -> None:
    """Stop repeating an interrupt that has been handled."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)


def _raise_interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, REPEAT_SECONDS)
    raise KeyboardInterrupt
