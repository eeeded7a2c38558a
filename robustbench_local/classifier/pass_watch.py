"""A limit on the passes of an attack, for a pilot that may cut it short at any pass.

An attack that is cut short has told most of what its cost depends on: which images fell early, and which are
still searched.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

RECENT_CALLS = 3
"""Number of last calls whose images count as still searched: a step may ask more than once."""
_open_watches: list[PassWatch] = []


class CountsPasses(Protocol):
    """What a watch reads of a counter."""

    total_passes: int
    """Passes over all images."""

    @property
    def forward_passes(self) -> Tensor:
        """Forward passes of each image, int64, (N,)."""

    @property
    def backward_passes(self) -> Tensor:
        """Backward passes of each image, int64, (N,)."""


class PassLimitReachedError(BaseException):
    """The limit of a watch is reached; no ``Exception``, so that no attack takes it for a failed query."""


@dataclass(frozen=True, kw_only=True)
class UnfinishedImages:
    """The images that were still searched when an attack was cut short."""

    rows: tuple[int, ...] = ()
    """Their rows in the counter of the search, ascending."""
    passes: int = 0
    """Passes that they have taken."""
    counted: int = 0
    """Number of images of that counter."""
    waiting: int = 0
    """Number of them that no pass has been spent on: they waited for a place in the batch."""


class PassWatch:
    """Watches the passes of all counters of this process.

    Args:
        limit: Number of passes after which the work is cut short.

    Attributes:
        passes: Passes so far.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.passes = limit, 0
        self._last: CountsPasses | None = None
        self._largest: CountsPasses | None = None
        self._recent: deque[list[int]] = deque(maxlen=RECENT_CALLS)

    def record_passes(self, counter: CountsPasses, rows: Tensor | None, size: int, passes: int) -> None:
        """Record passes of a counter.

        Args:
            counter: The counter.
            rows: The images of the counter, (N,); None: its first ones.
            size: Number of images, N.
            passes: Passes that they took.

        Raises:
            PassLimitReachedError: If the limit is reached.
        """
        self.passes += passes
        if counter is not self._last:
            self._recent.clear()
        self._last = counter
        if self._largest is None or counter.total_passes > self._largest.total_passes:
            self._largest = counter
        self._recent.append(list(range(size)) if rows is None else rows.tolist())
        if self.passes >= self.limit:
            raise PassLimitReachedError

    def find_unfinished_images(self) -> UnfinishedImages:
        """Find the images that were searched in the last calls.

        The search is what has taken the most passes. If another counter was the last to count, such as that
        of the verification, the search was over and no image is unfinished.
        """
        if self._last is None or self._last is not self._largest:
            return UnfinishedImages()
        rows = sorted({row for call in self._recent for row in call})
        spent = self._last.forward_passes + self._last.backward_passes
        return UnfinishedImages(
            rows=tuple(rows),
            passes=int(spent[rows].sum()),
            counted=len(spent),
            waiting=int((spent == 0).sum()),
        )


@contextmanager
def watch_passes(limit: int) -> Iterator[PassWatch]:
    """Watch the passes of this process while open; one watch at a time counts, the innermost.

    Args:
        limit: As for `PassWatch`.
    """
    watch = PassWatch(limit)
    _open_watches.append(watch)
    try:
        yield watch
    finally:
        _open_watches.remove(watch)


def record_watched_passes(counter: CountsPasses, rows: Tensor | None, size: int, passes: int) -> None:
    """Record passes in the open watch, if there is one, as `PassWatch.record_passes` does."""
    if _open_watches:
        _open_watches[-1].record_passes(counter, rows, size, passes)
