"""The sections of the report. Each is a module with its template beside it.

To add one, write a subclass of ``Section`` and its template, and add it to ``SECTIONS``.
"""

from __future__ import annotations

from typing import Any

from robustbench_local.reports.sections.accuracy_bounds_section import ACCURACY_BOUNDS
from robustbench_local.reports.sections.adaptive_steps_section import ADAPTIVE_STEPS
from robustbench_local.reports.sections.attacker_knowledge_section import ATTACKER_KNOWLEDGE
from robustbench_local.reports.sections.certified_section import CERTIFIED
from robustbench_local.reports.sections.classes_section import CLASSES
from robustbench_local.reports.sections.corruptions_section import CORRUPTIONS
from robustbench_local.reports.sections.curves_section import CURVES
from robustbench_local.reports.sections.distances_section import DISTANCES
from robustbench_local.reports.sections.eight_bit_section import EIGHT_BIT
from robustbench_local.reports.sections.examples_section import EXAMPLES
from robustbench_local.reports.sections.heatmap_section import HEATMAP
from robustbench_local.reports.sections.limits_section import LIMITS
from robustbench_local.reports.sections.load_test_section import LOAD_TESTS
from robustbench_local.reports.sections.method_section import METHOD
from robustbench_local.reports.sections.naive_vs_adaptive_section import NAIVE_VS_ADAPTIVE
from robustbench_local.reports.sections.rejections_section import REJECTIONS
from robustbench_local.reports.sections.resubmission_section import RESUBMISSION
from robustbench_local.reports.sections.run_cost_section import RUN_COST
from robustbench_local.reports.sections.section import Section
from robustbench_local.reports.sections.stickers_section import STICKERS
from robustbench_local.reports.sections.stopped_section import STOPPED
from robustbench_local.reports.sections.targets_section import TARGETS
from robustbench_local.reports.sections.threats_section import THREATS
from robustbench_local.reports.sections.trade_off_section import TRADE_OFF
from robustbench_local.reports.sections.transfers_section import TRANSFERS
from robustbench_local.reports.sections.trust_section import TRUST
from robustbench_local.reports.sections.twins_section import TWINS

SECTIONS: tuple[Section[Any], ...] = (
    HEATMAP,
    STOPPED,
    TARGETS,
    STICKERS,
    TRADE_OFF,
    THREATS,
    CURVES,
    EXAMPLES,
    CERTIFIED,
    CORRUPTIONS,
    TRUST,
    CLASSES,
    ACCURACY_BOUNDS,
    EIGHT_BIT,
    NAIVE_VS_ADAPTIVE,
    ADAPTIVE_STEPS,
    RESUBMISSION,
    REJECTIONS,
    TWINS,
    DISTANCES,
    TRANSFERS,
    ATTACKER_KNOWLEDGE,
    LOAD_TESTS,
    RUN_COST,
    METHOD,
    LIMITS,
)
"""In the order of the report: what a reader decides by comes first, what only some readers need last."""
