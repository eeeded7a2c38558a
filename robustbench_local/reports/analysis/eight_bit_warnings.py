"""Warnings about attack success after rounding to 8 bits, a sentence each.

Successes are counted per image over all attacks: one may find an 8-bit example that another misses.
"""

from __future__ import annotations

from collections.abc import Iterator

from robustbench_local.reports.analysis.eight_bit_worst_case import (
    EightBitCase,
    find_eight_bit_cases,
    find_eight_bit_goals,
)
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.formatting.text import (
    format_cells,
    format_count,
    format_percent,
    isolate_direction,
)
from robustbench_local.statistics import Estimate


def describe_eight_bit_loss(evidence: Evidence) -> Iterator[str]:
    """Describe attacks whose success drops when images are rounded."""
    if falling := [case for case in _find_cases(evidence) if case.has_success_drop]:
        where = format_cells(
            [
                f"{_format_case(one)} ({_format_change(one.float_success, one.attack_success)})"
                for one in falling
            ]
        )
        yield f"Attack success drops when images are rounded to 8 bits, as image files store them: {where}."


def describe_undecided_in_eight_bit(evidence: Evidence) -> Iterator[str]:
    """Describe attacks with successes whose ball holds no 8-bit image."""
    if undecided := [case for case in _find_cases(evidence) if case.undecided_count]:
        where = format_cells(
            [f"{_format_case(one)} ({format_count(one.undecided_count, 'image')})" for one in undecided]
        )
        what = (
            f"Misclassified under attack, but no attack found an 8-bit image in the ball: {where}. "
            f"Usually there is none,"
        )
        yield f"{what} since the originals are not 8-bit images. The 8-bit figures exclude them."


def _find_cases(evidence: Evidence) -> list[EightBitCase]:
    return [*find_eight_bit_cases(evidence), *find_eight_bit_goals(evidence)]


def _format_case(case: EightBitCase) -> str:
    """Format all attacks under a threat model on the subject, or the single one."""
    who = isolate_direction(str(case.subject))
    if len(case.attacks) == 1:
        return f"{isolate_direction(case.attacks[0])} on {who}"
    kind = "targeted attacks" if case.targeted else "worst case"
    return f"{kind} under {case.threat} on {who}"


def _format_change(before: Estimate, after: Estimate) -> str:
    return f"{format_percent(before.value)} \N{RIGHTWARDS ARROW} {format_percent(after.value)}"
