"""Ctrl-C and SIGTERM: the current record is finished first; a swallowed interrupt is raised again."""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn

REPEAT_SECONDS = 10.0
"""Seconds after which an interrupt is raised again: Python drops one that is raised where it cannot be
caught, such as in a destructor, and the run would go on for hours."""

_pending: list[int] = []
"""Signals since the last interrupt that was handled."""


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
    _pending.clear()
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)


def is_interrupt_pending() -> bool:
    """Whether an interrupt was raised that nobody has handled.

    Compiled code that is interrupted while it reads its arguments may raise an error of its own instead, such
    as a TypeError about argument types.
    """
    return bool(_pending)


def _raise_interrupt(kind: int, _frame: FrameType | None) -> NoReturn:
    _pending.append(kind)
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, REPEAT_SECONDS)
    raise KeyboardInterrupt
