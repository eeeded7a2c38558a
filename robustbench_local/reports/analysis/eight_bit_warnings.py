"""Warnings about attack success after rounding to 8 bits, a sentence each.

Successes are counted per image over all attacks: one may find an 8-bit example that another misses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from robustbench_local.reports.analysis.eight_bit_worst_case import (
    EightBitCase,
    find_eight_bit_cases,
    find_eight_bit_goals,
)
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.finding import Finding
from robustbench_local.reports.analysis.gate_types import Gate
from robustbench_local.reports.formatting.text import (
    format_cells,
    format_count,
    format_percent,
    isolate_direction,
)
from robustbench_local.statistics import Estimate


def find_eight_bit_loss(evidence: Evidence) -> Iterator[Finding]:
    """Find attacks whose success drops when images are rounded.

    Rounding inside the ball leaves less room at its border, so sound models lose some success as well: it
    is a remark, and a warning only where a gate would be ruled otherwise.
    """
    falling = [case for case in _find_cases(evidence) if case.has_success_drop]
    changed = [case for case in falling if _changes_gate(evidence, case)]
    calm = [case for case in falling if case not in changed]
    if changed:
        where = _format_changes(changed)
        text = (
            "In 8 bits, as image files store images, attacks succeed less often and a gate is ruled "
            f"otherwise: {where}."
        )
        yield Finding(level="warning", text=text)
    if calm:
        text = (
            "Attack success drops when images are rounded to 8 bits, as image files store them: "
            f"{_format_changes(calm)}."
        )
        yield Finding(level="note", text=text)


def _format_changes(cases: Sequence[EightBitCase]) -> str:
    return format_cells(
        [f"{_format_case(one)} ({_format_change(one.float_success, one.attack_success)})" for one in cases]
    )


def _changes_gate(evidence: Evidence, case: EightBitCase) -> bool:
    """Return whether a gate on the worst case of a threat model is ruled otherwise in 8 bits."""
    worst = evidence.get_worst_case(case.subject, case.threat)
    if worst is None or case.targeted:
        return False
    measured = {"robust_accuracy": worst.robust_accuracy, "attack_success": worst.attack_success}
    rounded = {"robust_accuracy": case.robust_accuracy, "attack_success": case.attack_success}
    gates = [Gate.from_entry(entry) for entry in evidence.gates]
    return any(
        gate.is_kept_by(gate.select_bound(measured[gate.metric]))
        != gate.is_kept_by(gate.select_bound(rounded[gate.metric]))
        for gate in gates
        if gate.metric in measured
        and gate.threat == case.threat.name
        and not gate.attack
        and gate.model in {None, case.subject.model}
        and gate.defense in {None, case.subject.defense}
    )


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
