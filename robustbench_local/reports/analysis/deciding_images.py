"""About how many more images would decide an inconclusive gate, and under which attack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from robustbench_local.counted_nouns import choose_form, format_count
from robustbench_local.phased_estimates import Phase, estimate_phased_share
from robustbench_local.reports.analysis.attack_phases import describe_phases
from robustbench_local.reports.analysis.gate_types import Gate
from robustbench_local.reports.analysis.worst_case import WorstCase
from robustbench_local.reports.formatting.text import join_in_sentence
from robustbench_local.statistics import Estimate, compute_clopper_pearson, invert_share

MAX_IMAGES = 1_000_000
"""Images beyond which the estimate counts as being at the limit."""
MAX_NAMED_ATTACKS = 3
"""Attacks named in one message; more are every attack."""

_IsDecided = Callable[[Estimate], bool]
AT_LIMIT_TEXT = "the estimate is at the limit, so that no number of images decides"


def describe_deciding_images(gate: Gate, estimate: Estimate, attack_labels: Sequence[str] = ()) -> str:
    """Describe how many more images would decide a gate whose interval straddles the limit.

    The share is taken to stay as it is.

    Args:
        gate: The limit.
        estimate: The share; over groups of images, whose number then has to grow.
        attack_labels: Labels in tables of the attacks that have to be run on them.
    """
    if estimate.groups:
        return f"more groups of images{_format_attacks(attack_labels)} would decide"
    needed = count_deciding_images(estimate, lambda share: _is_decided_by(gate, share))
    return _format_more(needed, estimate.n, attack_labels)


def describe_deciding_part(gate: Gate, worst: WorstCase, estimate: Estimate) -> str:
    """Describe how many more images would decide a gate on a worst case, and under which of its attacks.

    Args:
        gate: A limit on robust accuracy or attack success, whose interval straddles it.
        worst: The worst case.
        estimate: The judged share.
    """
    if not worst.phases:
        met = len(worst.verdicts) if worst.left_out_count else estimate.n
        return describe_deciding_images(gate, replace(estimate, n=met), worst.limiting_attack_labels)
    is_success = gate.metric == "attack_success"
    phases = worst.count_unbroken_phases() if is_success else worst.count_robust_phases()

    def is_decided(share: Estimate) -> bool:
        return _is_decided_by(gate, invert_share(share) if is_success else share)

    part = _find_least(
        phases[-1].images, phases[0].images, lambda images: is_decided(_extrapolate_share(phases, images))
    )
    if part is None:
        every = invert_share(estimate) if is_success else estimate
        return _format_more(count_deciding_images(every, is_decided), phases[0].images, worst.attack_labels)
    extended = [
        label
        for phase, counts in zip(worst.phases, phases, strict=True)
        for label in phase.attack_labels
        if counts.images < part
    ]
    return _format_more(part, phases[-1].images, extended)


def describe_more_of_each_class(worst: WorstCase) -> str:
    """Describe what would decide a gate on the worst class."""
    return f"more images of each class{_format_attacks(worst.limiting_attack_labels)} would decide"


def describe_different_images(worst: WorstCase) -> str:
    """Describe how attacks with different images count together; empty if no image depends on it."""
    if not worst.left_out_count:
        return ""
    if worst.phases:
        return describe_phases(worst.phases)
    every = format_count(len(worst.any_attack_verdicts), "image")
    unbroken = sum(verdict.robust for verdict in worst.any_attack_verdicts.values())
    robust = f"{unbroken:,} {choose_form(unbroken, 'is', 'are')} robust so far"
    met = f"{len(worst.verdicts):,} of {every} ran under every attack, {robust}"
    return f"{met}; not two phases, since {worst.phase_obstacle}" if worst.phase_obstacle else met


def count_deciding_images(estimate: Estimate, is_decided: _IsDecided) -> int | None:
    """Count the images on which a share would be decided if it stayed as it is; None if there are too many.

    Args:
        estimate: The share so far.
        is_decided: Whether an estimate decides.
    """
    return _find_least(
        estimate.n,
        MAX_IMAGES,
        lambda images: is_decided(compute_clopper_pearson(round(estimate.value * images), images)),
    )


def _is_decided_by(gate: Gate, estimate: Estimate) -> bool:
    """Return whether an interval lies on one side of the limit."""
    best = estimate.high if gate.min is not None else estimate.low
    return gate.is_kept_by(gate.select_bound(estimate)) or not gate.is_kept_by(best)


def _extrapolate_share(phases: Sequence[Phase], images: int) -> Estimate:
    """Estimate the share if the later phases had so many images at least, and the same shares."""
    extended = [phases[0]]
    for phase in phases[1:]:
        before, count = extended[-1], max(phase.images, images)
        attacked = min(round(before.robust * count / before.images), before.robust)
        robust = round(attacked * (phase.robust / phase.attacked if phase.attacked else 1.0))
        extended.append(Phase(count, attacked, robust) if count > phase.images else phase)
    return estimate_phased_share(extended)


def _find_least(known: int, most: int, is_enough: Callable[[int], bool]) -> int | None:
    """Find about the least number above ``known``, up to ``most``, that is enough; None if none is."""
    step = 1
    while known + step < most and not is_enough(known + step):
        step *= 2
    low, high = known + step // 2, min(known + step, most)
    if high <= known or not is_enough(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def _format_more(needed: int | None, images: int, attack_labels: Sequence[str]) -> str:
    if needed is None:
        return AT_LIMIT_TEXT
    more = format_count(_round_up(needed - images), "more image")
    return f"about {more}{_format_attacks(attack_labels)} would decide"


def _round_up(count: int) -> int:
    """Round a positive number up to two significant digits."""
    unit = int(10 ** max(0, len(str(count)) - 2))
    return -(-count // unit) * unit


def _format_attacks(labels: Sequence[str]) -> str:
    if not labels:
        return ""
    return f" under {join_in_sentence(labels) if len(labels) <= MAX_NAMED_ATTACKS else 'every attack'}"
