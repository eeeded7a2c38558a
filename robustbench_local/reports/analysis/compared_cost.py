"""What the cells of two runs cost: passes through the model, and time."""

from __future__ import annotations

from dataclasses import dataclass

from robustbench_local.reports.analysis.run_pairs import PairedCells, SubjectPair


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Passes and time of some cells."""

    images: int
    """Verdicts: images, each counted once for each cell."""
    forward_passes: int
    """Forward passes of attacks and harness."""
    backward_passes: int
    """Backward passes."""
    seconds: float
    """Time of the images, in seconds; depends on the machine and its load."""

    @property
    def passes(self) -> int:
        """Forward and backward passes."""
        return self.forward_passes + self.backward_passes


@dataclass(frozen=True, kw_only=True)
class CostChange:
    """The cost of two models over the attacks and certificates that both runs have."""

    subjects: SubjectPair
    """The models."""
    first: Cost
    """Cost in the first run."""
    second: Cost
    """Cost in the second run."""

    @property
    def passes_ratio(self) -> float | None:
        """Passes of the second run as a multiple of those of the first; None if that has none."""
        return self.second.passes / self.first.passes if self.first.passes else None


def compute_cost_change(subjects: SubjectPair, cells: PairedCells) -> CostChange:
    """Add up the cost of the paired cells, finished or not."""
    sides = [[pair.first.tally for pair in cells.pairs], [pair.second.tally for pair in cells.pairs]]
    costs = [
        Cost(
            images=sum(tally.n for tally in tallies),
            forward_passes=sum(tally.forward_passes for tally in tallies),
            backward_passes=sum(tally.backward_passes for tally in tallies),
            seconds=sum(tally.seconds for tally in tallies),
        )
        for tallies in sides
    ]
    return CostChange(subjects=subjects, first=costs[0], second=costs[1])
