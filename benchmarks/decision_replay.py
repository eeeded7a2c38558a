"""Replays of a run until its gate is decided, on outcomes that are known beforehand: no network is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from robustbench_local.sequential_decision import LimitTest, StopTest, Zone
from robustbench_local.statistics import compute_clopper_pearson
from robustbench_local.stop_target import ImageMark, StopTarget


@dataclass(frozen=True, kw_only=True)
class OutcomeTable:
    """What each attack would find on each image, cheap attacks first, in random order."""

    robust: npt.NDArray[np.bool_]
    """(N, attacks): whether the image is robust against the attack."""
    passes: npt.NDArray[np.float64]
    """(N, attacks): passes of the attack for the image."""
    costs: tuple[float, ...]
    """Most passes of each attack for an image, as its plan states them."""
    proven: npt.NDArray[np.bool_] | None = None
    """(N,): what a certificate would prove; None: there is no certificate."""
    proof_cost: float = 0.0
    """Its passes for an image."""

    @property
    def robust_count(self) -> int:
        """Images that are robust against every attack."""
        return int(self.robust.all(axis=1).sum())


@dataclass(frozen=True, kw_only=True)
class ReplayedRun:
    """Where a replay ended."""

    zone: Zone | None
    """The verdict; None if the images ended before it, as for a question of precision."""
    passes: float
    """Passes until then."""
    given: tuple[int, ...]
    """Images that each attack was given."""
    half_width: float
    """Half the width of the interval."""


def replay_run(table: OutcomeTable, test: StopTest) -> ReplayedRun:
    """Replay a run over a table until a question is answered.

    Args:
        table: The outcomes.
        test: The question.
    """
    count, attacks = table.robust.shape
    target = StopTarget(
        name="replay",
        cells=tuple(f"attack {number}" for number in range(attacks)),
        costs=table.costs,
        proofs=() if table.proven is None else ("proof",),
        proof_cost=table.proof_cost,
        order=tuple(map(str, range(count))),
        test=test,
    )
    marks: dict[str, dict[str, ImageMark]] = {key: {} for key in (*target.cells, *target.proofs)}
    passes = 0.0
    while True:
        state = target.read_marks(marks)
        work = None if state.is_answered else state.choose_work()
        if work is None:
            break
        rows = np.array([int(image) for image in work.images])
        if work.cell == "proof":
            found, passes = table.proven[rows], passes + table.proof_cost * len(rows)  # type: ignore[index]
        else:
            number = target.cells.index(work.cell)
            found, passes = table.robust[rows, number], passes + float(table.passes[rows, number].sum())
        marks[work.cell] |= {
            image: ImageMark(correct=True, robust=bool(mark))
            for image, mark in zip(work.images, found, strict=True)
        }
    zone = test.find_zone(state.interval) if isinstance(test, LimitTest) else None
    given = tuple(len(marks[key]) for key in target.cells)
    return ReplayedRun(zone=zone, passes=passes, given=given, half_width=state.interval.half_width)


def build_lower_bound_test(limit: float, count: int) -> LimitTest:
    """Build the question of a gate: does the lower end of the 95% interval over all images keep the limit?"""
    counts: Sequence[int] = range(count + 1)
    above = next((k for k in counts if compute_clopper_pearson(k, count).low >= limit), count + 1)
    below = next((k for k in counts if compute_clopper_pearson(k, count).high >= limit), count + 1) - 1
    return LimitTest(below=below, above=above)


def draw_table(
    random: np.random.Generator,
    count: int,
    survival: Sequence[float],
    costs: Sequence[float],
    *,
    broken_cost: float = 0.1,
    proven_share: float | None = None,
) -> OutcomeTable:
    """Draw a table of independent images.

    Args:
        random: The source of random numbers.
        count: Images.
        survival: For each attack, the share that survives it of the images which survive those before.
        costs: Passes of each attack for an image that survives it.
        broken_cost: Part of them that an image takes on which the attack succeeds.
        proven_share: Share of the robust images that a certificate proves; None: no certificate.
    """
    robust = np.cumprod(random.random((count, len(survival))) < np.array(survival), axis=1).astype(bool)
    passes = np.where(robust, 1.0, broken_cost) * np.array(costs)
    proven = None if proven_share is None else robust[:, -1] & (random.random(count) < proven_share)
    return OutcomeTable(robust=robust, passes=passes, costs=tuple(costs), proven=proven, proof_cost=4.0)
