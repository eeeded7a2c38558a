"""An event loop with a time of its own: a wait takes no time, and the same happens on every machine."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Jumps to the next timer where a loop would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        select = self._selector.select

        def select_at_once(timeout: float | None) -> Any:
            assert timeout is not None, "everybody waits for nothing"
            self.now += max(0.0, timeout)
            return select(0)

        self._selector.select = select_at_once

    def time(self) -> float:
        return self.now


def run_virtually(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)
