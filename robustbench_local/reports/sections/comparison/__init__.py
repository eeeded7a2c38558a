"""The sections of a comparison of runs; to add one, write a subclass of ``ComparisonSection``."""

from __future__ import annotations

from robustbench_local.reports.sections.comparison.changed_images_section import CHANGED_IMAGES
from robustbench_local.reports.sections.comparison.comparison_section import ComparisonSection
from robustbench_local.reports.sections.comparison.cost_section import COST
from robustbench_local.reports.sections.comparison.gate_changes_section import GATE_CHANGES
from robustbench_local.reports.sections.comparison.share_table_section import (
    ATTACKS,
    CLASSES,
    CLEAN,
    WORST_CASES,
)

__all__ = ["CHANGED_IMAGES", "CLASSES", "COMPARISON_SECTIONS"]

COMPARISON_SECTIONS: tuple[ComparisonSection, ...] = (
    GATE_CHANGES,
    WORST_CASES,
    ATTACKS,
    CLASSES,
    CLEAN,
    CHANGED_IMAGES,
    COST,
)
"""In the order of the page."""
