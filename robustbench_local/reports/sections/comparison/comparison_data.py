"""The content shared by all forms of a comparison: its runs and the pictures of changed images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from robustbench_local.reports.analysis.changed_pictures import ChangedPicture
from robustbench_local.reports.analysis.run_comparison import RunComparison


@dataclass(frozen=True, kw_only=True)
class ComparisonData:
    """The content of a comparison."""

    comparisons: tuple[RunComparison, ...]
    """Each run with the baseline, in the order that the user gave."""
    pictures: Mapping[tuple[int, int], tuple[ChangedPicture, ...]] = field(default_factory=dict)
    """Index of the comparison and of its model -> pictures of images that changed sides."""

    @property
    def has_several_runs(self) -> bool:
        """Whether tables need a column for the run."""
        return len(self.comparisons) > 1

    @property
    def is_single(self) -> bool:
        """Whether there is one run with one model, which the answer is about."""
        return len(self.comparisons) == 1 and len(self.comparisons[0].models) == 1

    @property
    def has_several_models(self) -> bool:
        """Whether tables need a column for the model."""
        return any(len(comparison.pairs) > 1 for comparison in self.comparisons)
