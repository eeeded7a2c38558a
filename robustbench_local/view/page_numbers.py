"""Pages of a long list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, kw_only=True)
class PageNumbers:
    """Which part of a list a page shows."""

    page: int
    """The page, from 1."""
    last: int
    """The last page, at least 1."""
    start: int
    """Index of its first entry."""
    end: int
    """Index behind its last entry."""
    count: int
    """Entries of the whole list."""

    @classmethod
    def from_count(cls, count: int, page: int, size: int) -> Self:
        """Return the page of a list, or the last one if there are fewer.

        Args:
            count: Entries of the list.
            page: The page asked for, from 1.
            size: Entries of a page.
        """
        last = max(1, -(-count // size))
        shown = min(max(page, 1), last)
        start = (shown - 1) * size
        return cls(page=shown, last=last, start=start, end=min(start + size, count), count=count)
