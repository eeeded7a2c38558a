"""The budget of the diagnostics: at most a share of the passes that the run plans."""

from __future__ import annotations

from dataclasses import dataclass

MAX_PASSES_SHARE = 0.10
"""Largest share of a run's planned passes that its diagnostics may take."""


@dataclass
class PassBudget:
    """Passes that the diagnostics of one model may take.

    Args:
        limit: Forward and backward passes, together.
    """

    limit: int
    spent: int = 0
    """Passes taken so far."""

    @property
    def left(self) -> int:
        """Passes that are left."""
        return max(0, self.limit - self.spent)

    def count_images(self, cost: int, most: int, share: float = 1.0) -> int:
        """Return how many images a diagnostic may use.

        Args:
            cost: Passes per image, at least 1.
            most: Largest useful number.
            share: Share of the whole budget that the diagnostic may take; never more than what is left.
        """
        return max(0, min(most, int(min(self.left, share * self.limit)) // max(cost, 1)))
