"""Phased estimates of a run that may stop at any time: each phase has its own confidence sequence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from robustbench_local.confidence_sequences import ConfidenceSequence, compute_anytime_totals
from robustbench_local.statistics import Estimate, round_figure

EARLY_PHASE_SHARE = 0.2
"""Share of the error probability that the phases before the last one have together.

They are cheap and see most images soon, so that the last one, which costs most, has most of it."""
LATER_BET_WEIGHT = 1.0
"""Weight of the bets in later phases: most images that survive a good attack survive a better one as well,
and a small weight gives short intervals near a share of 1."""
_TOTAL_SLACK = 1e-6
"""Numbers of images that are whole but for rounding."""


def estimate_phased_sequence(
    phases: Sequence[Sequence[bool | int]], population: int | None = None, level: float = 0.95
) -> Estimate:
    """Estimate the share of images that are robust to all phases, with an interval that holds at all times.

    The first phase attacks images in a random order. Each later one attacks those that survived the phase
    before, in the same order, up to where it has come. Which phase goes on, and when the run stops, may
    depend on all results so far: given what survives a phase, the order of the survivors is random whatever
    the earlier phases have seen.

    Each phase has a `ConfidenceSequence` at its own part of the error probability. The first bounds the
    number of survivors of the whole population. The second is taken among the fewest possible survivors for
    the lower end, among the most for the upper end, and so on: its ends grow with that number. The interval
    is a function of the outcomes of each phase alone, not of the times at which the phases alternated.

    Args:
        phases: Outcomes of each phase in the order of the images, true for images that survive it. A later
            phase has at most as many as the one before has survivors.
        population: Number of all images; None: infinitely many.
        level: Confidence, in (0, 1).

    Returns:
        An estimate whose ``n`` is the number of images of the first phase. Phases without any outcome count
        as survived in the value, and leave the lower end at 0.

    Raises:
        ValueError: If there is no phase, or one has more outcomes than survivors.

    Source: the union of two confidence sets; each is a `ConfidenceSequence`.
    """
    if not phases:
        raise ValueError("an estimate needs at least one phase")
    for earlier, later in pairwise(phases):
        if len(later) > sum(map(bool, earlier)):
            raise ValueError(f"a phase has {len(later)} outcomes of {sum(map(bool, earlier))} survivors")
    first = ConfidenceSequence(population, get_phase_level(0, len(phases), level))
    first.update(phases[0])
    if len(phases) == 1 or not first.n:
        return replace(first.interval, level=level)
    value = math.prod(sum(map(bool, phase)) / len(phase) for phase in phases if phase)
    levels = [get_phase_level(index, len(phases), level) for index in range(1, len(phases))]
    if population is None:
        low, high = _multiply_ends(first, phases[1:], levels)
    else:
        low, high = _narrow_totals(first, population, phases[1:], levels)
    return Estimate(
        value=value,
        low=min(round_figure(low), value),
        high=max(round_figure(high), value),
        n=first.n,
        level=level,
        phases=_count_images(phases),
    )


def get_phase_level(index: int, count: int, level: float) -> float:
    """Return the level of one of ``count`` phases; their error probabilities add up to that of ``level``."""
    if count == 1:
        return level
    early = EARLY_PHASE_SHARE / (count - 1)
    return 1 - (1 - level) * (1 - EARLY_PHASE_SHARE if index == count - 1 else early)


def _multiply_ends(
    first: ConfidenceSequence, later: Sequence[Sequence[bool | int]], levels: Sequence[float]
) -> tuple[float, float]:
    """Multiply the ends of the phases' intervals, each over infinitely many images."""
    low, high = first.interval.low, first.interval.high
    for outcomes, level in zip(later, levels, strict=True):
        sequence = ConfidenceSequence(None, level, LATER_BET_WEIGHT)
        sequence.update(outcomes)
        low, high = low * sequence.interval.low, high * sequence.interval.high
    return low, high


def _narrow_totals(
    first: ConfidenceSequence,
    population: int,
    later: Sequence[Sequence[bool | int]],
    levels: Sequence[float],
) -> tuple[float, float]:
    """Narrow the numbers of survivors in a finite population from phase to phase; returns shares."""
    ends = first.interval
    fewest = math.floor(ends.low * population + _TOTAL_SLACK)
    most = math.ceil(ends.high * population - _TOTAL_SLACK)
    for outcomes, level in zip(later, levels, strict=True):
        counts = list(accumulate(map(int, outcomes)))
        fewest, most = (
            max(
                (
                    compute_anytime_totals(k, n, fewest, level, LATER_BET_WEIGHT)[0]
                    for n, k in enumerate(counts, 1)
                ),
                default=0,
            ),
            min(
                (
                    compute_anytime_totals(k, n, most, level, LATER_BET_WEIGHT)[1]
                    for n, k in enumerate(counts, 1)
                ),
                default=most,
            ),
        )
        # only where the truth was excluded already can the two ends contradict each other
        fewest, most = min(fewest, most), max(fewest, most)
    return fewest / population, most / population


def _count_images(phases: Sequence[Sequence[bool | int]]) -> tuple[int, ...]:
    """Count the first images of the order on which each phase and all before it are settled."""
    settled = [len(phases[0])]
    survivors = [position for position, outcome in enumerate(phases[0]) if outcome]
    for outcomes in phases[1:]:
        settled.append(survivors[len(outcomes)] if len(outcomes) < len(survivors) else settled[-1])
        survivors = [position for position, outcome in zip(survivors, outcomes, strict=False) if outcome]
    return tuple(settled)
