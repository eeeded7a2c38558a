"""Cells side by side: the next one begins where those at work leave workers idle."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any

Steps = Generator[None, None, Any]
"""Work that yields whenever something has come back, and when it has waited in vain for a moment."""


def run_side_by_side(works: Iterable[Steps], has_room: Callable[[], bool]) -> None:
    """Run pieces of work to their ends, in their order; several are at work where there is room.

    The last images of a cell keep few workers of a cluster busy. The next cell takes the others meanwhile.

    Args:
        works: The work of each cell. An exception of one ends all.
        has_room: Whether workers are idle that no work has use for now.
    """
    waiting, active = iter(works), list[Steps]()
    is_over = False
    try:
        while active or not is_over:
            for work in list(active):
                _take_step(work, active)
            while not is_over and (not active or has_room()):
                started = next(waiting, None)
                is_over = started is None
                if started is not None:
                    active.append(started)
                    _take_step(started, active)
    finally:
        for work in active:
            work.close()


def _take_step(work: Steps, active: list[Steps]) -> None:
    try:
        next(work)
    except StopIteration:
        active.remove(work)
