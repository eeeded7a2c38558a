"""An estimate of the time that a run still takes, from the images that are done.

The plan knows the most passes that an attack may take, which most images never need: they fall early. So
the estimate rests on the share of these passes that images took, and on the seconds that a pass took.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from robustbench_local.evaluation.execution.cost_range import (
    NO_COST,
    RANGE_QUANTILE,
    CostRange,
    compute_share_range,
)

MIN_SPEED_SECONDS = 5.0
"""Seconds from which on the batch at work tells the speed of its cell."""
PRIOR_SPEED_SECONDS = 10.0
"""Planned seconds of passes that weigh as much as the plan itself, where actual ones differ from it."""
SPEED_UNCERTAINTY_SHARE = 0.1
"""Standard uncertainty of the speed of a machine that does other work as well."""


@dataclass(frozen=True, kw_only=True)
class CellWork:
    """The work of one cell: what the plan allows, and what is done."""

    model: str
    """The model; the images of its cells are the same, and so are their errors of estimation."""
    attack: str
    """The attack or certificate."""
    images: int
    """Number of images."""
    max_passes: int
    """Maximum number of passes over all images."""
    max_seconds: float | None = None
    """Seconds of that many passes, by the measured speed of the model; None if it is unknown."""
    done: int = 0
    """Number of images that are done."""
    passes: int = 0
    """Passes that they took."""
    seconds: float = 0.0
    """Seconds that they took."""
    batch_passes: int = 0
    """Passes of the batch at work, whose images are not done."""
    batch_seconds: float = 0.0
    """Seconds of the batch at work; 0 if there is none."""
    has_ended: bool = False
    """Whether nothing is left to do, whatever was done."""

    @property
    def images_left(self) -> int:
        """Number of images that are left."""
        return 0 if self.has_ended else max(self.images - self.done, 0)

    @property
    def max_passes_per_image(self) -> float:
        """Maximum number of passes of one image."""
        return self.max_passes / self.images if self.images else 0.0

    @property
    def is_measured(self) -> bool:
        """Whether images are done that took passes."""
        return self.done > 0 and self.passes > 0 and self.max_passes > 0


def estimate_seconds_left(cells: Sequence[CellWork]) -> CostRange | None:
    """Estimate the seconds that the rest of all cells takes.

    The cells of one model err together, because they have the same images; models err independently. A cell
    without a finished image is estimated from the same attack on other models, else from all attacks.

    Args:
        cells: The cells of the run.

    Returns:
        The range; None if images are left and none is measured.
    """
    if not any(cell.images_left for cell in cells):
        return NO_COST
    measured = _Measurements([cell for cell in cells if cell.is_measured])
    if not measured.cells:
        return None
    below: defaultdict[str, float] = defaultdict(float)
    above: defaultdict[str, float] = defaultdict(float)
    total = 0.0
    for cell in cells:
        rest = _estimate_cell(cell, measured)
        total += rest.value
        below[cell.model] += rest.value - rest.low
        above[cell.model] += rest.high - rest.value
    speed = RANGE_QUANTILE * SPEED_UNCERTAINTY_SHARE * total
    return CostRange(
        low=max(total - math.hypot(speed, *below.values()), 0.0),
        value=total,
        high=total + math.hypot(speed, *above.values()),
    )


def estimate_passes_left(cells: Sequence[CellWork]) -> CostRange | None:
    """Estimate the passes that the rest of all cells takes, as `estimate_seconds_left` does for the time.

    Args:
        cells: The cells of the run.

    Returns:
        The range; None if images are left and none is measured.
    """
    counted = [
        replace(
            cell,
            seconds=float(cell.passes),
            max_seconds=float(cell.max_passes),
            batch_passes=0,
            batch_seconds=0.0,
        )
        for cell in cells
    ]
    return estimate_seconds_left(counted)


class _Measurements:
    """The cells with finished images, by model and by attack.

    Args:
        cells: Measured cells.
    """

    def __init__(self, cells: Sequence[CellWork]) -> None:
        self.cells = cells
        self._by_model: defaultdict[str, list[CellWork]] = defaultdict(list)
        self._by_attack: defaultdict[str, list[CellWork]] = defaultdict(list)
        for cell in cells:
            self._by_model[cell.model].append(cell)
            self._by_attack[cell.attack].append(cell)
        self._shares: dict[str, tuple[float, float, float]] = {}
        self._slowdown = _compute_slowdown(cells, 1.0)

    def estimate_pass_seconds(self, cell: CellWork) -> float:
        """Return the seconds of a pass: the planned ones, corrected by those of the model's finished images.

        Where no speed was planned, it is the mean over the finished images.
        """
        own = self._by_model.get(cell.model, [])
        if cell.max_seconds is not None and cell.max_passes:
            return cell.max_seconds / cell.max_passes * _compute_slowdown(own, self._slowdown)
        alike = own or self.cells
        return sum(other.seconds for other in alike) / sum(other.passes for other in alike)

    def estimate_share(self, attack: str) -> tuple[float, float, float]:
        """Return lower end, mean and upper end of the share of passes that an attack's images take."""
        if attack not in self._by_attack:
            attack = ""  # none is measured
        if attack not in self._shares:
            self._shares[attack] = self._compute_shares(self._by_attack.get(attack))
        return self._shares[attack]

    def _compute_shares(self, same: Sequence[CellWork] | None) -> tuple[float, float, float]:
        shares = [(_compute_share(other), other.done) for other in same or self.cells]
        ranges = [compute_share_range(share, done) for share, done in shares]
        mean = sum(share for share, _ in shares) / len(shares)
        return min(low for low, _ in ranges), mean, max(high for _, high in ranges) if same else 1.0


def _compute_slowdown(cells: Sequence[CellWork], prior: float) -> float:
    """Return the actual over the planned seconds of finished images.

    Images that take few passes take most of their time elsewhere, so that little says nothing: the result is
    as if some seconds more had been measured.

    Args:
        cells: Measured cells.
        prior: What these seconds would have shown.
    """
    known = [cell for cell in cells if cell.max_seconds is not None]
    planned = sum((cell.max_seconds or 0.0) * cell.passes / cell.max_passes for cell in known)
    actual = sum(cell.seconds for cell in known)
    return (actual + prior * PRIOR_SPEED_SECONDS) / (planned + PRIOR_SPEED_SECONDS)


def _estimate_cell(cell: CellWork, measured: _Measurements) -> CostRange:
    """Estimate the rest of one cell."""
    if not cell.images_left:
        return NO_COST
    pass_seconds = measured.estimate_pass_seconds(cell)
    full_seconds = cell.max_passes_per_image * pass_seconds
    if cell.is_measured:
        value, share = cell.seconds / cell.done, _compute_share(cell)
        low, high = compute_share_range(share, cell.done)
        ends = (value * low / share, value, value + (high - share) * full_seconds)
        pass_seconds = cell.seconds / cell.passes
    else:
        low, mean, high = measured.estimate_share(cell.attack)
        ends = (low * full_seconds, mean * full_seconds, high * full_seconds)
    low, value, high = (cell.images_left * end for end in ends)
    rest = CostRange(low=min(low, value), value=value, high=max(high, value))
    return _subtract_batch(cell, rest, pass_seconds)


def _subtract_batch(cell: CellWork, rest: CostRange, pass_seconds: float) -> CostRange:
    """Subtract the batch at work from the rest of its cell.

    Once it has run for a while it tells the speed of this very attack at this moment.
    """
    if cell.batch_passes and pass_seconds and cell.batch_seconds >= MIN_SPEED_SECONDS:
        passes_left = rest.scale_by(1 / pass_seconds).shift_by(-cell.batch_passes)
        return passes_left.scale_by(cell.batch_seconds / cell.batch_passes)
    return rest.shift_by(-cell.batch_seconds)


def _compute_share(cell: CellWork) -> float:
    """Return the share of the maximum passes that the finished images took."""
    return min(cell.passes / (cell.done * cell.max_passes_per_image), 1.0)
