"""Square: random square perturbations, accepted if they increase the loss; it uses scores only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.engine_attack import EngineAttack
from robustbench_local.attacks.core.search import PointEvaluation, Search
from robustbench_local.attacks.core.work_items import ActiveSet, Lookahead, compute_age_range
from robustbench_local.attacks.square.perturbations import (
    SquareProposals,
    compute_root,
    compute_used_budget,
    perturb_linf_windows,
    perturb_lp_windows,
    raise_to_power,
)
from robustbench_local.attacks.square.square_state import SquareLookahead, SquareState
from robustbench_local.attacks.square.windows import (
    Windows,
    build_tiled_patterns,
    compute_tile_grid,
    compute_window_sides,
)
from robustbench_local.classifier import Access
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import RandomStream, sample_uniform_at
from robustbench_local.threats.lp_ball import (
    PerImageBalls,
    broadcast_radius,
    compute_norms,
    project_to_box,
    reshape_for_broadcast,
)
from robustbench_local.threats.threat_model import ThreatModel

_STEPS_PER_BLOCK = 64
"""Steps per draw of random numbers."""
_HALF_ULP = 2.0**-25
"""Maximum rounding error of a pixel."""
_SCORE_NOISE_SHARE = 1e-5
"""Minimum relative increase of a negative score: many windows change only the rounding of the logits, which
differs in another batch."""
_LOOKAHEAD_SHARE = 0.5
"""Proposals evaluated together, as a fraction of an item's mean distance between accepted proposals; on two
signs this saves five sixths of the passes and discards every sixth evaluation (5,000 steps)."""
_MAX_LOOKAHEAD_POINTS = 16
_LOOKAHEAD_BUDGET_SHARE = 0.25
"""Fraction of discarded evaluations in an item's steps at which it stops evaluating ahead."""


@dataclass(frozen=True, kw_only=True)
class Square(EngineAttack):
    """Square attack: random search with shrinking windows, on the margin of the raw scores.

    Args:
        queries: Maximum forward passes per image over all restarts, divided equally between them.
        p: Fraction of the image's pixels in the first windows, above 0 and at most 1.
        restarts: Searches per image, at least 1.
        rescale: Whether the schedule of the windows, made for 10,000 queries, is scaled to the queries of a
            restart, as in the first paper; AutoAttack does not scale it.

    Raises:
        ConfigError: If a number is out of range.

    Source: Andriushchenko et al. 2020, arXiv:1912.00049, algorithms 1 to 3; schedule and defaults, Croce &
    Hein 2020, arXiv:2003.01690; L1, Croce & Hein 2021, arXiv:2103.01208.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"Linf", "L2", "L1"})
    access: ClassVar[Access] = "scores"

    queries: int = 5000
    p: float = 0.8
    restarts: int = 1
    rescale: bool = False

    def __post_init__(self) -> None:
        if self.restarts < 1 or self.queries < 2 * self.restarts:
            raise ConfigError(
                f"Square needs at least 1 restart and 2 queries for each, "
                f"got {self.restarts} and {self.queries} queries"
            )
        if not 0 < self.p <= 1:
            raise ConfigError(f"Square's p must be above 0 and at most 1, got {self.p}")

    def run_searches(self, engine: Engine, threat: ThreatModel) -> None:
        """Run a search of every unfinished image for each restart."""
        # the evaluation of the start is a query too
        steps = self.queries // self.restarts - 1
        for restart in range(self.restarts):
            search = SquareSearch(threat=threat, steps=steps, p=self.p, rescale=self.rescale)
            engine.run(search, engine.build_items(restart))

    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Return its queries, and no backward pass."""
        return (self.queries // self.restarts * self.restarts, 0) if threat.eps else (0, 0)


class SquareSearch(Search[SquareState]):
    """Square's search on the engine. A proposal is written into the current points, and undone if rejected.

    Args:
        threat: Budget, goal and region.
        steps: Proposals per item.
        p: Fraction of the image's pixels in the first windows.
        rescale: Whether the schedule of the windows is scaled to ``steps``.
        use_lookahead: Whether to evaluate several proposals of an item in one pass. Proposals and their order
            of acceptance do not change: evaluations after an accepted proposal are discarded. This costs at
            most ``lookahead_budget`` evaluations, so it is not for a classifier whose queries are counted.
        name: Name of the stage.
        starts: (N, C, H, W): a point in the ball for each image of the engine to start from; None: stripes or
            tiles.
    """

    def __init__(
        self,
        *,
        threat: ThreatModel,
        steps: int,
        p: float = 0.8,
        rescale: bool = False,
        use_lookahead: bool = False,
        name: str = "square",
        starts: Tensor | None = None,
    ) -> None:
        self.threat, self.steps, self.name, self._starts = threat, steps, name, starts
        self.lookahead_budget = int(_LOOKAHEAD_BUDGET_SHARE * steps) if use_lookahead else 0
        self._first_share, self._rescale = p, rescale
        self._power = {"Linf": 0, "L2": 2, "L1": 1}[threat.norm]
        self._window_count = 2 if self._power else 1
        self._projects_whole_image = False
        self._window_sides: list[int] = []
        self._window_side_table = torch.empty(0, dtype=torch.int64)
        self._cached_positions: tuple[Tensor, Tensor] | None = None

    def start_items(self, front: ActiveSet, stream: RandomStream, draws: list[str]) -> SquareState:
        """Start with stripes of random colors under Linf, with tiles under L2 and L1, or at given points."""
        channels, height, width = front.points.shape[1:]
        self._projects_whole_image = self.threat.norm == "L1" and channels > 1
        smallest, odd = (3, True) if self._power else (1, False)
        self._window_sides = compute_window_sides(
            self.steps, self._first_share, height, width, min_side=smallest, odd=odd, rescale=self._rescale
        )
        self._window_side_table = torch.tensor(self._window_sides)
        front.originals = front.originals.contiguous()
        start = self._start_from_tiles if self._power else self._start_from_stripes
        points = start(front, stream, draws) if self._starts is None else self._starts[front.rows]
        front.points = points.contiguous()
        front.best_points = front.points.clone()
        spent = compute_used_budget(front.points - front.originals, self._power)
        entry = 3 if self._power else 1
        ahead = torch.zeros(len(front), _STEPS_PER_BLOCK, entry, dtype=torch.int64, device=spent.device)
        return SquareState(
            stream_keys=stream.compute_keys([f"{draw}/windows" for draw in draws], spent.device),
            block_windows=ahead,
            block_colours=spent.new_zeros(len(front), _STEPS_PER_BLOCK, channels),
            windows=ahead[:, 0],
            budget=self._compute_budget(front).expand(len(front)),
            used_budget=spent,
            proposed_budget=spent,
            accepted_count=torch.zeros_like(front.rows),
            wasted_count=torch.zeros_like(front.age),
        )

    def count_lookahead(self, front: ActiveSet, max_points: int) -> Tensor | None:
        """Return more points the lower the item's acceptance rate; never beyond its block."""
        state: SquareState = front.state  # type: ignore[assignment]  # start_items made it
        if not self.lookahead_budget or not front.get_age_range()[0]:
            return None
        counts = 1 + (_LOOKAHEAD_SHARE * front.age / (state.accepted_count.cpu() + 1)).long()
        remaining = torch.minimum(
            _STEPS_PER_BLOCK - (front.age - 1) % _STEPS_PER_BLOCK, self.steps - front.age
        )
        max_points = min(max_points, _MAX_LOOKAHEAD_POINTS)
        counts = torch.minimum(counts, remaining.clamp_max(max_points))
        counts[state.wasted_count > self.lookahead_budget - max_points] = 1
        return counts if bool((counts > 1).any()) else None

    def build_lookahead(self, front: ActiveSet, of: Tensor, offsets: Tensor) -> SquareLookahead:
        """Write proposals into the best points, each as if all before it had been rejected."""
        state: SquareState = front.state  # type: ignore[assignment]  # start_items made it
        ages = front.age[of] - 1 + offsets
        windows = self._build_windows(front, ages, *compute_age_range(ages))
        row, slot = (_move_index(index, state.stream_keys) for index in (of, ages % _STEPS_PER_BLOCK))
        canvas = SquareProposals(
            points=front.best_points[row],
            originals=front.originals[row],
            ball=self.threat if front.eps is None else PerImageBalls(self.threat.norm, front.eps[row]),
            windows=state.block_windows[row, slot],
            colours=state.block_colours[row, slot],
            budget=state.budget[row],
            used_budget=state.used_budget[row],
        )
        positions = self._apply_proposals(canvas, windows)
        return SquareLookahead(
            points=canvas.points,
            windows=canvas.windows,
            pixel_positions=positions,
            used_budget=canvas.used_budget,
        )

    def advance_items(self, front: ActiveSet, lookahead: Lookahead, wasted: Tensor) -> None:
        """Update the state to the proposals in the current points."""
        state: SquareState = front.state  # type: ignore[assignment]  # start_items made it
        state.wasted_count = state.wasted_count + wasted
        reached: SquareLookahead = lookahead  # type: ignore[assignment]  # build_lookahead made it
        state.windows, state.proposed_budget = reached.windows, reached.used_budget
        self._cached_positions = state.windows, reached.pixel_positions

    def is_improvement(self, scores: Tensor, best_scores: Tensor) -> Tensor:
        """Return whether the score rises by more than rounding."""
        return scores * (1 + _SCORE_NOISE_SHARE) > best_scores

    def update_best_points(self, front: ActiveSet, scores: Tensor) -> None:
        """Accept the proposals that raise the score and undo the others, inside their windows if possible."""
        state: SquareState = front.state  # type: ignore[assignment]  # start_items made it
        better = self.is_improvement(scores, front.best_scores)
        if self.lookahead_budget:
            state.accepted_count = state.accepted_count + better
        if self._power:
            state.used_budget = torch.where(better, state.proposed_budget, state.used_budget)
        if self._projects_whole_image:
            super().update_best_points(front, scores)
            front.points = front.best_points.clone()
            return
        front.best_scores = torch.where(better, scores, front.best_scores)
        points, best = front.points.flatten(1), front.best_points.flatten(1)
        positions = self._locate_proposals(front, state)
        accepted_pixels = torch.where(better[:, None], points.gather(1, positions), best.gather(1, positions))
        points.scatter_(1, positions, accepted_pixels)
        best.scatter_(1, positions, accepted_pixels)

    def step(self, front: ActiveSet, state: SquareState, evaluation: PointEvaluation) -> Tensor:  # noqa: ARG002 - scored before
        """Write the next proposals into the points."""
        youngest, oldest = front.get_age_range()
        colours = self._advance_block(front, state, youngest, oldest)
        canvas = SquareProposals(
            points=front.points,
            originals=front.originals,
            ball=self.get_ball(front),
            windows=state.windows,
            colours=colours,
            budget=state.budget,
            used_budget=state.used_budget,
        )
        positions = self._apply_proposals(canvas, self._build_windows(front, front.age, youngest, oldest))
        state.proposed_budget, self._cached_positions = canvas.used_budget, (state.windows, positions)
        return canvas.points

    def _apply_proposals(self, canvas: SquareProposals, windows: Windows) -> Tensor:
        """Apply each item's proposal; return its positions in the image's memory."""
        positions = windows.locate_pixels(canvas.windows[:, : self._window_count])
        if self._power:
            perturb_lp_windows(
                canvas, windows, positions, power=self._power, project_whole_image=self._projects_whole_image
            )
        else:
            perturb_linf_windows(canvas, positions)
        return positions

    def _locate_proposals(self, front: ActiveSet, state: SquareState) -> Tensor:
        """Return the positions of the proposals, recomputed if items have started or ended since `step`."""
        if self._cached_positions is not None and self._cached_positions[0] is state.windows:
            return self._cached_positions[1]
        before = (front.age - 1).clamp_min(0)
        youngest, oldest = (max(age - 1, 0) for age in front.get_age_range())
        return self._build_windows(front, before, youngest, oldest).locate_pixels(
            state.windows[:, : self._window_count]
        )

    def _build_windows(self, front: ActiveSet, ages: Tensor, youngest: int, oldest: int) -> Windows:
        """Build the windows of the steps at these ages."""
        shape, device = tuple(front.points.shape[1:]), front.points.device
        smallest, largest = self._window_sides[oldest], self._window_sides[youngest]
        if smallest == largest:  # sides never grow
            return Windows((largest,), shape, device)
        sides = [self._window_sides[age] for age in ages.tolist()]
        distinct_sides = sorted(set(sides))
        side_indices = torch.tensor([distinct_sides.index(side) for side in sides])
        return Windows(tuple(distinct_sides), shape, device, _move_index(side_indices, front.points))

    def _start_from_stripes(self, front: ActiveSet, stream: RandomStream, draws: list[str]) -> Tensor:
        """Start from vertical stripes, one pixel wide."""
        channels, _, width = front.points.shape[1:]
        colours = stream.sample_uniform((channels, 1, width), draw=draws, device=front.points.device) - 0.5
        reach = broadcast_radius(self.get_ball(front), front.points)
        return (front.originals + _compute_signs(colours) * reach).clamp_(0.0, 1.0)

    def _start_from_tiles(self, front: ActiveSet, stream: RandomStream, draws: list[str]) -> Tensor:
        """Start from bumps over the whole image, as high as the ball allows."""
        channels, height, width = front.points.shape[1:]
        _, down, across = compute_tile_grid(height, width)
        numbers = (
            stream.sample_uniform((channels + 1, down, across), draw=draws, device=front.points.device) - 0.5
        )
        turned = (numbers[:, -1] > 0).long()
        delta = build_tiled_patterns(_compute_signs(numbers[:, :-1]), turned, height, width, self._power)
        reach = compute_root(self._compute_budget(front), self._power).expand(len(front))
        if self._power == 2:
            delta = delta * reshape_for_broadcast(reach / compute_norms(delta, "L2"), delta)
        return project_to_box(
            front.originals + delta, front.originals, PerImageBalls(self.threat.norm, reach)
        )

    def _compute_budget(self, front: ActiveSet) -> Tensor:
        """Return the limit of ``used_budget``, with a reserve for rounding under L2 and L1."""
        reach = torch.as_tensor(self.get_ball(front).eps, dtype=torch.float32, device=front.points.device)
        if not self._power:
            return reach
        rounding_slack = _HALF_ULP * front.points[0].numel() ** (1 / self._power)
        return raise_to_power((reach - rounding_slack).clamp_min(0), self._power)

    def _advance_block(self, front: ActiveSet, state: SquareState, youngest: int, oldest: int) -> Tensor:
        """Advance each item in its block, drawing blocks as needed; return its colors, (W, C)."""
        if youngest == oldest:
            slot = youngest % _STEPS_PER_BLOCK
            if slot == 0:
                self._draw_block(front, state, torch.arange(len(front)))
            state.windows = state.block_windows[:, slot]
            return state.block_colours[:, slot]
        slots = front.age % _STEPS_PER_BLOCK
        due = (slots == 0).nonzero().flatten()
        if len(due):
            self._draw_block(front, state, due)
        rows = torch.arange(len(slots), device=state.stream_keys.device)
        slots = _move_index(slots, rows)
        state.windows = state.block_windows[rows, slots]
        return state.block_colours[rows, slots]

    def _draw_block(self, front: ActiveSet, state: SquareState, rows: Tensor) -> None:
        """Draw a block for some rows, (M,) int64 on the CPU, and recompute their used budget exactly."""
        channels, height, width = front.points.shape[1:]
        numbers = 2 * self._window_count + channels + (1 if self._power else 0)
        ages, device = front.age[rows], state.stream_keys.device
        first, rows = (_move_index(index, state.stream_keys) for index in ((ages * numbers)[:, None], rows))
        sides = self._window_side_table[
            (ages[:, None] + torch.arange(_STEPS_PER_BLOCK)).clamp_max(self.steps - 1)
        ]
        corner_counts = _move_index(
            torch.tensor([height + 1, width + 1]) - sides[..., None], state.stream_keys
        )
        places = first + torch.arange(_STEPS_PER_BLOCK * numbers, device=device)
        uniform = sample_uniform_at(state.stream_keys[rows][:, None], places).view(
            len(rows), _STEPS_PER_BLOCK, numbers
        )
        shares = uniform[..., : 2 * self._window_count].view(
            len(rows), _STEPS_PER_BLOCK, self._window_count, 2
        )
        corners = (shares * corner_counts[:, :, None]).long()
        entry = corners[..., 0] * width + corners[..., 1]
        colours = _compute_signs(uniform[..., -channels:] - 0.5)
        if self._power:
            turned = (uniform[..., 2 * self._window_count] > 0.5).long()
            entry = torch.cat([entry, turned[..., None]], dim=2)
            spent = compute_used_budget(front.points[rows] - front.originals[rows], self._power)
            state.used_budget = state.used_budget.index_copy(0, rows, spent)
        else:
            colours *= state.budget[rows, None, None]
        state.block_windows = state.block_windows.index_copy(0, rows, entry)
        state.block_colours = state.block_colours.index_copy(0, rows, colours)


def _move_index(index: Tensor, like: Tensor) -> Tensor:
    """Move an index of the CPU to the device of ``like``, without waiting for it."""
    return index.to(like.device, non_blocking=True)


def _compute_signs(numbers: Tensor) -> Tensor:
    """Return -1 or 1, also for 0."""
    return torch.where(numbers < 0, -1.0, 1.0)
