"""A verdict from part of the images: in random order, until the rest cannot change it.

The images stand in a random order. Each attack works on the first of them, the cheapest one the furthest, and
only on those that the attacks before it left robust. At any moment an interval for the number of robust
images among all of them is known. It holds at all moments together with a stated probability, so that the
run may look at it after every chunk and stop.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from robustbench_local.confidence_sequences import (
    BET_WEIGHT,
    compute_anytime_totals,
    estimate_ordered_share,
)
from robustbench_local.phased_sequences import LATER_BET_WEIGHT, estimate_phased_sequence, get_phase_level

SEQUENCE_ERROR = 0.025
"""Largest probability that the true number of robust images ever leaves the interval of a sequence. A verdict
against a limit adds at most as much, on one side of its 95% interval: together 5%."""
MIN_CHUNK_IMAGES = 16
"""Least number of images of the order by which an attack is extended."""
CHUNK_SHARE = 0.25
"""A chunk is this share of what the attack has behind it, if that is more: checks stay few."""
_GUESSED_SURVIVORS, _GUESS_WEIGHT = 0.95, 4.0
"""Before an attack has run: the guessed share of the images left by cheaper ones that survive it, and the
number of images that the guess weighs as much as. It only affects what is run next."""
_PLANNED_SIZES = 10
"""Number of sizes of each attack among which the cheapest plan is sought."""

Zone = Literal["below", "between", "above"]


@dataclass(frozen=True, kw_only=True)
class PhaseOutcomes:
    """One attack on the first images of the order."""

    prefix: int
    """Images of the order that need no work of it any more: attacked, decided before, or proven."""
    survived: tuple[bool, ...]
    """For each image of the prefix that the phases before left robust, in order: whether it still is."""
    cost: float = 1.0
    """Passes for an image that it is given."""


@dataclass(frozen=True, kw_only=True)
class CountInterval:
    """An interval for the number of robust images among all, valid at every moment of the run."""

    low: int
    """Lower end."""
    high: int
    """Upper end."""
    value: float
    """The estimated share of robust images, in [0, 1]; NaN before the first image."""
    seen: int
    """Images that at least the first phase has seen."""
    population: int
    """All images."""

    @property
    def half_width(self) -> float:
        """Half the width of the interval, as a share of all images."""
        return (self.high - self.low) / (2 * self.population) if self.population else 0.0


class StopTest(Protocol):
    """A question that an interval answers or leaves open."""

    def is_met(self, interval: CountInterval) -> bool:
        """Return whether further images cannot change the answer."""


@dataclass(frozen=True, kw_only=True)
class LimitTest:
    """Three verdicts on the number of robust images among all."""

    below: int
    """Largest number of the lowest verdict; -1: no number."""
    above: int
    """Smallest number of the highest verdict; more than all images: no number."""

    def classify_count(self, count: int) -> Zone:
        """Return the verdict that a number of robust images gives."""
        return "below" if count <= self.below else "above" if count >= self.above else "between"

    def find_zone(self, interval: CountInterval) -> Zone | None:
        """Return the verdict that every number of an interval gives; None if they differ."""
        low, high = self.classify_count(interval.low), self.classify_count(interval.high)
        return low if low == high else None

    def is_met(self, interval: CountInterval) -> bool:
        """Return whether every number of the interval gives the same verdict."""
        return self.find_zone(interval) is not None


@dataclass(frozen=True, kw_only=True)
class PrecisionTest:
    """A largest half-width of the interval."""

    half_width: float
    """As a share of all images, in (0, 1)."""

    def is_met(self, interval: CountInterval) -> bool:
        """Return whether the interval is narrow enough."""
        return interval.half_width <= self.half_width


def build_phases(
    order: Sequence[str],
    outcomes: Sequence[Mapping[str, bool]],
    costs: Sequence[float] = (),
    proven: Collection[str] = frozenset(),
) -> tuple[PhaseOutcomes, ...]:
    """Arrange the outcomes of attacks by the random order.

    Outcomes behind the first image that an attack still owes do not count: only a beginning of the order is a
    random sample.

    Args:
        order: Ids of all images, in random order.
        outcomes: For each attack, cheap ones first: image id -> whether the image is robust against it.
        costs: Passes of each attack for an image; 1 where left out.
        proven: Ids of images that no attack can change.

    Returns:
        One phase for each attack.
    """
    places = {image: place for place, image in enumerate(order)}
    phases: list[PhaseOutcomes] = []
    left, end = list(order), len(order)
    for number, known in enumerate(outcomes):
        survived: list[bool] = []
        survivors: list[str] = []
        prefix = end
        for image in left:
            mark = known.get(image, True if image in proven else None)
            if mark is None:
                prefix = places[image]
                break
            survived.append(mark)
            if mark:
                survivors.append(image)
        cost = costs[number] if number < len(costs) else 1.0
        phases.append(PhaseOutcomes(prefix=prefix, survived=tuple(survived), cost=cost))
        left, end = survivors, prefix
    return tuple(phases)


def select_chunk(
    order: Sequence[str],
    outcomes: Sequence[Mapping[str, bool]],
    number: int,
    prefix: int,
    proven: Collection[str] = frozenset(),
) -> list[str]:
    """Select the images that an attack has to run on to reach a prefix of the order.

    Args:
        order: Ids of all images, in random order.
        outcomes: As for ``build_phases``.
        number: Index of the attack.
        prefix: Number of images of the order to be settled.
        proven: Ids of images that no attack can change.

    Returns:
        Image ids, in the order; without those that cheaper attacks or a proof decide.
    """
    return [
        image
        for image in order[:prefix]
        if image not in outcomes[number]
        and image not in proven
        and all(known.get(image, True) for known in outcomes[:number])
    ]


def estimate_count(
    phases: Sequence[PhaseOutcomes],
    population: int,
    proofs: Sequence[bool] = (),
    *,
    has_proofs: bool = False,
    error: float = SEQUENCE_ERROR,
) -> CountInterval:
    """Estimate the number of images that survive every phase.

    Args:
        phases: At least one.
        population: Number of all images.
        proofs: For the first images of the order: whether the image is proven robust. A lower end by itself.
        has_proofs: Whether proofs take part, and with them half of the error; fixed before the run.
        error: Probability that the interval ever misses.

    Returns:
        The interval. It ends at one number when every phase has seen its images.
    """
    part = error / 2 if has_proofs else error
    share = estimate_phased_sequence([phase.survived for phase in phases], population, 1 - part)
    known_robust = sum(phases[-1].survived)
    known_lost = sum(phase.survived.count(False) for phase in phases)
    bottom = max(_round_up(population * share.low), known_robust)
    if has_proofs:
        proven = estimate_ordered_share(proofs, population, 1 - part)
        bottom = max(bottom, _round_up(population * proven.low))
    top = max(min(_round_down(population * share.high), population - known_lost), known_robust)
    bottom = min(bottom, top)
    value = min(max(share.value, bottom / population), top / population)
    return CountInterval(low=bottom, high=top, value=value, seen=phases[0].prefix, population=population)


def choose_extension(
    phases: Sequence[PhaseOutcomes], population: int, test: StopTest, *, has_proofs: bool = False
) -> tuple[int, int] | None:
    """Choose the attack to extend next, and how far.

    If the images to come are like those so far, which sizes of the phases end the run at the least cost? The
    cheapest phase that is shorter than there gets the next chunk.

    Args:
        phases: What is known.
        population: Number of all images.
        test: The question.
        has_proofs: As for ``estimate_count``.

    Returns:
        Index of the phase, and the prefix of the order to reach; None if every phase is at its end.
    """
    target = _plan_sizes(phases, population, test, has_proofs=has_proofs)
    for number, (phase, size) in enumerate(zip(phases, target, strict=True)):
        end = phases[number - 1].prefix if number else population
        if phase.prefix < min(size, end):
            chunk = max(MIN_CHUNK_IMAGES, math.ceil(CHUNK_SHARE * phase.prefix))
            return number, min(phase.prefix + chunk, size, end)
    return None


def _plan_sizes(
    phases: Sequence[PhaseOutcomes], population: int, test: StopTest, *, has_proofs: bool
) -> tuple[int, ...]:
    """Return the cheapest sizes of the phases with which the run is expected to end."""
    level = 1 - (SEQUENCE_ERROR / 2 if has_proofs else SEQUENCE_ERROR)
    shares = [_guess_later_share(phase, is_first=not number) for number, phase in enumerate(phases)]
    left = [math.prod(shares[:number]) for number in range(len(phases))]
    best: tuple[float, tuple[int, ...]] | None = None
    for sizes in itertools.product(*(_list_sizes(phase.prefix, population) for phase in phases)):
        cost = sum(
            (size - phase.prefix) * share * phase.cost
            for size, phase, share in zip(sizes, phases, left, strict=True)
        )
        is_nested = all(after <= before for before, after in itertools.pairwise(sizes))
        if not is_nested or (best is not None and cost >= best[0]):
            continue
        if test.is_met(_predict_interval(sizes, phases, shares, population, level)):
            best = cost, sizes
    return best[1] if best else (population,) * len(phases)


def _predict_interval(
    sizes: Sequence[int],
    phases: Sequence[PhaseOutcomes],
    shares: Sequence[float],
    population: int,
    level: float,
) -> CountInterval:
    """Predict the interval at other sizes of the phases, if the images to come are like those so far."""
    fewest = most = expected = population
    given_share = 1.0
    for number, (size, phase, share) in enumerate(zip(sizes, phases, shares, strict=True)):
        new = round((size - phase.prefix) * given_share)
        if size == population:  # then the phases before are at their end too, and leave ``expected`` images
            new = expected - len(phase.survived)
        given = min(len(phase.survived) + new, fewest)
        survivors = min(sum(phase.survived) + round(new * share), given)
        part, weight = get_phase_level(number, len(phases), level), LATER_BET_WEIGHT if number else BET_WEIGHT
        lowest = compute_anytime_totals(survivors, given, fewest, part, weight)[0]
        most = compute_anytime_totals(survivors, given, most, part, weight)[1]
        fewest, given_share = min(lowest, most), given_share * share
        expected = survivors if size == population else round(expected * share)
    return CountInterval(
        low=fewest, high=most, value=expected / population, seen=sizes[0], population=population
    )


def _list_sizes(prefix: int, population: int) -> list[int]:
    """List sizes from the present one to all images, growing by a factor."""
    least = max(prefix + MIN_CHUNK_IMAGES, MIN_CHUNK_IMAGES)
    if least >= population:
        return sorted({prefix, population})
    ratio = (population / least) ** (1 / (_PLANNED_SIZES - 2))
    steps = {round(least * ratio**step) for step in range(_PLANNED_SIZES - 1)}
    return sorted({prefix, population, *(min(step, population) for step in steps)})


def _guess_later_share(phase: PhaseOutcomes, *, is_first: bool) -> float:
    """Guess which share of the images to come survives a phase."""
    guess, weight = (0.5, 1.0) if is_first else (_GUESSED_SURVIVORS, _GUESS_WEIGHT)
    return (sum(phase.survived) + guess * weight) / (len(phase.survived) + weight)


def _round_up(count: float) -> int:
    """Round a number of images up; a computed number within rounding of a whole one is that one."""
    return math.ceil(count - 1e-6)


def _round_down(count: float) -> int:
    return math.floor(count + 1e-6)
