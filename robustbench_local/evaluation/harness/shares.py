"""The shares of a cell that several workers take one after another, so that none waits for another.

Nearly all time goes to the images that survive, and nobody knows before which they are. So the first shares
are large, because a step costs nearly as much for few images as for many, and the last ones are small,
because all workers should end together. The sizes are those of guided self-scheduling (Polychronopoulos
and Kuck 1987). They have no influence on verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robustbench_local.evaluation.harness.job import OutcomeBatch

FIRST_SHARE = 0.95
"""Part of the images that would be the same for every worker, of those left, that the next share takes. By
simulation (`python -m benchmarks.scaling`): half of it or two thirds leave more small shares than pay."""
BATCHES_PER_SHARE = 2
"""Maximum number of batches of a share: what a kill may cost each worker."""
MIN_BATCH_SHARE = 0.25
"""Minimum size of a share, as a part of a batch."""


@dataclass(frozen=True)
class ShareResult:
    """What came of a share."""

    positions: list[int]
    """Its images."""
    batch_size: int
    """Images per pass."""
    batch: OutcomeBatch | None = None
    """Their outcomes; None after a failure."""
    failure: Exception | None = None
    """Why there are none."""


class Shares:
    """The images that are left, as shares of falling size.

    Args:
        positions: The images.
        workers: Number of workers that take shares.
        batch_size: Images per pass of a worker.
        most: Maximum number of images of a share.
    """

    def __init__(self, positions: Sequence[int], *, workers: int, batch_size: int, most: int) -> None:
        # interleaved: data are often sorted by class, and classes differ in how hard they are
        self._left = [position for offset in range(workers) for position in positions[offset::workers]]
        self._workers, self._most = workers, most
        self._least = max(1, int(MIN_BATCH_SHARE * batch_size))

    def take_share(self) -> list[int]:
        """Take the next share, and return its images in ascending order; empty if none are left."""
        share = self.list_next()
        self._left = self._left[len(share) :]
        return share

    def list_next(self) -> list[int]:
        """Return the images of the next share without taking it."""
        size = compute_share_size(len(self._left), self._workers, least=self._least, most=self._most)
        return sorted(self._left[:size])

    def return_share(self, positions: Sequence[int]) -> None:
        """Put the images of a share back, in front."""
        self._left = [*positions, *self._left]

    def list_left(self) -> list[int]:
        """Return the images that no share has taken."""
        return sorted(self._left)


def compute_share_size(left: int, workers: int, *, least: int, most: int) -> int:
    """Compute the size of the next share.

    Args:
        left: Number of images that are left.
        workers: Number of workers.
        least: Minimum size, unless fewer are left.
        most: Maximum size; it goes before the minimum.
    """
    return min(left, most, max(least, round(FIRST_SHARE * left / workers)))


def find_largest_share(unit: int, batch_size: int) -> int:
    """Return the maximum number of images of a share.

    Args:
        unit: Number of images that one worker alone would commit at once: more than a batch where images are
            cheap, less where one costs as much as others' batches.
        batch_size: Images per pass.
    """
    return BATCHES_PER_SHARE * unit if unit == batch_size else unit
