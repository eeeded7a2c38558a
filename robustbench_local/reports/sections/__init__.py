"""The sections of the report: a module for each, and its template beside it.

To add one, write a subclass of ``Section`` and its template, and put it into ``SECTIONS``.
"""

from __future__ import annotations

from typing import Any

from robustbench_local.reports.sections.accuracy_bounds import ACCURACY_BOUNDS
from robustbench_local.reports.sections.attacker_knowledge import ATTACKER_KNOWLEDGE
from robustbench_local.reports.sections.certified import CERTIFIED
from robustbench_local.reports.sections.corruptions import CORRUPTIONS
from robustbench_local.reports.sections.curves import CURVES
from robustbench_local.reports.sections.distances import DISTANCES
from robustbench_local.reports.sections.eight_bit import EIGHT_BIT
from robustbench_local.reports.sections.examples import EXAMPLES
from robustbench_local.reports.sections.heatmap import HEATMAP
from robustbench_local.reports.sections.limits import LIMITS
from robustbench_local.reports.sections.method import METHOD
from robustbench_local.reports.sections.naive_vs_adaptive import NAIVE_VS_ADAPTIVE
from robustbench_local.reports.sections.section import Section
from robustbench_local.reports.sections.stickers import STICKERS
from robustbench_local.reports.sections.targets import TARGETS
from robustbench_local.reports.sections.transfers import TRANSFERS

SECTIONS: tuple[Section[Any], ...] = (
    HEATMAP,
    EIGHT_BIT,
    CURVES,
    NAIVE_VS_ADAPTIVE,
    CERTIFIED,
    ACCURACY_BOUNDS,
    DISTANCES,
    ATTACKER_KNOWLEDGE,
    TRANSFERS,
    CORRUPTIONS,
    EXAMPLES,
    TARGETS,
    STICKERS,
    METHOD,
    LIMITS,
)
"""In the order of the report."""
