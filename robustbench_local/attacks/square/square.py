"""Square: random squares, kept where they help; only the scores of the classifier are needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_local.attacks.base import Attack
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.search import Search, Seen
from robustbench_local.attacks.core.work_items import Foreseen, Front, Rows, span
from robustbench_local.attacks.square.perturbations import (
    Canvas,
    paint_bumps,
    paint_plain,
    raised,
    root,
    spent_on,
)
from robustbench_local.attacks.square.windows import Windows, tiled, tiles, window_sides
from robustbench_local.classifier import Access, Classifier
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import Stream, uniform_at
from robustbench_local.threats.lp_ball import Balls, column, norm_of, radius, to_ball_and_box
from robustbench_local.threats.threat_model import ThreatModel

_BLOCK = 64
"""Steps whose random numbers are drawn at once."""
_HALF_ULP = 2.0**-25
"""How far rounding moves a pixel at most."""
_NOISE = 1e-5
"""A negative score has to rise by this share: many windows change nothing but the rounding of the logits, and
that is another one in another batch."""
_AHEAD = 0.5
"""Proposals are looked at together for this share of an item's mean way from one that helped to the next: on
two signs a sixth of the passes, and every sixth look in vain (5,000 steps)."""
_MOST_AHEAD = 16
_SPARE = 0.25
"""An item stops looking ahead when so large a share of its steps was in vain."""


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Square attack: random search with windows that shrink, on the margin of the raw scores.

    Args:
        queries: Most forward passes for an image, all restarts together; each has an equal share.
        p: Share of the image's pixels in the first windows, above 0 and at most 1.
        restarts: Searches for an image, at least 1.
        rescale: Whether the windows' schedule, made for 10,000 queries, is stretched or shrunk to the queries
            of a restart, as the first paper has it; AutoAttack takes it as it is.

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

    def perturb(
        self,
        classifier: Classifier,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        stream: Stream,
        masks: Tensor | None = None,  # noqa: ARG002 - only for the region "image"
    ) -> Tensor:
        """Search; see :meth:`Attack.perturb`."""
        if len(images) == 0 or threat.eps == 0:
            return images.clone()
        engine = Engine(classifier, images, labels, stream)
        # the look at the start is a query too
        steps = self.queries // self.restarts - 1
        for restart in range(self.restarts):
            search = SquareSearch(threat=threat, steps=steps, p=self.p, rescale=self.rescale)
            engine.run(search, engine.items(restart))
        return engine.points

    def cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Its queries, and no backward pass."""
        return (self.queries // self.restarts * self.restarts, 0) if threat.eps else (0, 0)


@dataclass(kw_only=True)
class Squares(Rows):
    """What Square remembers of each item."""

    keys: Tensor
    """(W,): what opens its stream of random numbers."""
    ahead: Tensor
    """(W, block, windows) int64: where the windows of a block of steps lie, counted within a channel. Under
    L2 and L1 there are two, and behind them the number of the pattern."""
    colours: Tensor
    """(W, block, C): what a window gets, with its sign: the radius under Linf, else 1."""
    at: Tensor
    """(W, windows): the entry of ``ahead`` that ``front.points`` show."""
    reach: Tensor
    """(W,): the radius; under L2 and L1, what ``spent`` may grow to."""
    spent: Tensor
    """(W,): sum of the absolute changes, squared under L2, of ``front.best_points``; unused under Linf."""
    proposed: Tensor
    """(W,): that of ``front.points``."""
    helped: Tensor
    """(W,) int64: proposals that were accepted; counted where several are looked at together."""
    vain: Tensor
    """(W,) int64, on the CPU: proposals that were looked at in vain, since one before them helped."""


@dataclass(kw_only=True)
class Ahead(Foreseen):
    """A proposal that was foreseen."""

    at: Tensor
    """As in `Squares`."""
    where: Tensor
    """(M, positions) int64: where it is, in an image's memory."""
    spent: Tensor
    """(M,): as ``proposed`` in `Squares`."""


class SquareSearch(Search[Squares]):
    """Square's search on the engine. A proposal is painted into the present points, and wiped if rejected.

    Args:
        threat: Budget, goal and region.
        steps: Proposals for an item.
        p: Share of the image's pixels in the first windows.
        rescale: Whether the windows' schedule is stretched or shrunk to ``steps``.
        ahead: Whether to look at several proposals of an item in one pass. They are the same and are accepted
            in the same order as without: what was looked at beyond one that helped counts for nothing. It
            costs looks, at most ``spare``, so it is not for a classifier whose queries are counted.
        name: Name of the stage.
    """

    def __init__(
        self,
        *,
        threat: ThreatModel,
        steps: int,
        p: float = 0.8,
        rescale: bool = False,
        ahead: bool = False,
        name: str = "square",
    ) -> None:
        self.threat, self.steps, self.name = threat, steps, name
        self.spare = int(_SPARE * steps) if ahead else 0
        self._p, self._rescale = p, rescale
        self._power = {"Linf": 0, "L2": 2, "L1": 1}[threat.norm]
        self._count = 2 if self._power else 1
        self._wide = False
        self._sides: list[int] = []
        self._side_table = torch.empty(0, dtype=torch.int64)
        self._painted: tuple[Tensor, Tensor] | None = None

    def begin(self, front: Front, stream: Stream, draws: list[str]) -> Squares:
        """Stripes of random colours under Linf, tiles under L2 and L1."""
        channels, height, width = front.points.shape[1:]
        self._wide = self.threat.norm == "L1" and channels > 1
        smallest, odd = (3, True) if self._power else (1, False)
        self._sides = window_sides(
            self.steps, self._p, height, width, smallest=smallest, odd=odd, rescale=self._rescale
        )
        self._side_table = torch.tensor(self._sides)
        front.originals = front.originals.contiguous()
        start = self._tiles if self._power else self._stripes
        front.points = start(front, stream, draws).contiguous()
        front.best_points = front.points.clone()
        spent = spent_on(front.points - front.originals, self._power)
        entry = 3 if self._power else 1
        ahead = torch.zeros(len(front), _BLOCK, entry, dtype=torch.int64, device=spent.device)
        return Squares(
            keys=stream.keys([f"{draw}/windows" for draw in draws], spent.device),
            ahead=ahead,
            colours=spent.new_zeros(len(front), _BLOCK, channels),
            at=ahead[:, 0],
            reach=self._reach(front).expand(len(front)),
            spent=spent,
            proposed=spent,
            helped=torch.zeros_like(front.rows),
            vain=torch.zeros_like(front.age),
        )

    def ahead(self, front: Front, most: int) -> Tensor | None:
        """The more, the rarer a proposal of the item has helped so far; never beyond its block of numbers."""
        state: Squares = front.state  # type: ignore[assignment]  # begin made it
        if not self.spare or not front.span()[0]:
            return None
        counts = 1 + (_AHEAD * front.age / (state.helped.cpu() + 1)).long()
        room = torch.minimum(_BLOCK - (front.age - 1) % _BLOCK, self.steps - front.age)
        most = min(most, _MOST_AHEAD)
        counts = torch.minimum(counts, room.clamp_max(most))
        counts[state.vain > self.spare - most] = 1
        return counts if bool((counts > 1).any()) else None

    def foresee(self, front: Front, of: Tensor, offsets: Tensor) -> Ahead:
        """Paint proposals into the best points, each as if all before it had been wiped."""
        state: Squares = front.state  # type: ignore[assignment]  # begin made it
        ages = front.age[of] - 1 + offsets
        windows = self._windows(front, ages, *span(ages))
        row, slot = (_there(index, state.keys) for index in (of, ages % _BLOCK))
        canvas = Canvas(
            points=front.best_points[row],
            originals=front.originals[row],
            ball=self.threat if front.eps is None else Balls(self.threat.norm, front.eps[row]),
            at=state.ahead[row, slot],
            colours=state.colours[row, slot],
            reach=state.reach[row],
            spent=state.spent[row],
        )
        where = self._paint(canvas, windows)
        return Ahead(points=canvas.points, at=canvas.at, where=where, spent=canvas.spent)

    def leap(self, front: Front, there: Foreseen, vain: Tensor) -> None:
        """Take over the proposals that are shown now."""
        state: Squares = front.state  # type: ignore[assignment]  # begin made it
        state.vain = state.vain + vain
        state.at, state.proposed = there.at, there.spent  # type: ignore[attr-defined]  # foresee made it
        self._painted = state.at, there.where  # type: ignore[attr-defined]

    def helps(self, scores: Tensor, best_scores: Tensor) -> Tensor:
        """Whether the score rises by more than rounding."""
        return scores * (1 + _NOISE) > best_scores

    def keep(self, front: Front, scores: Tensor) -> None:
        """Accept the proposals that raise the score and wipe the others, in their windows if that will do."""
        state: Squares = front.state  # type: ignore[assignment]  # begin made it
        better = self.helps(scores, front.best_scores)
        if self.spare:
            state.helped = state.helped + better
        if self._power:
            state.spent = torch.where(better, state.proposed, state.spent)
        if self._wide:
            super().keep(front, scores)
            front.points = front.best_points.clone()
            return
        front.best_scores = torch.where(better, scores, front.best_scores)
        points, best = front.points.flatten(1), front.best_points.flatten(1)
        where = self._present(front, state)
        kept = torch.where(better[:, None], points.gather(1, where), best.gather(1, where))
        points.scatter_(1, where, kept)
        best.scatter_(1, where, kept)

    def step(self, front: Front, state: Squares, seen: Seen) -> Tensor:  # noqa: ARG002 - keep has judged
        """The next proposals, painted into the points."""
        youngest, oldest = front.span()
        colours = self._next(front, state, youngest, oldest)
        canvas = Canvas(
            points=front.points,
            originals=front.originals,
            ball=self.ball(front),
            at=state.at,
            colours=colours,
            reach=state.reach,
            spent=state.spent,
        )
        where = self._paint(canvas, self._windows(front, front.age, youngest, oldest))
        state.proposed, self._painted = canvas.spent, (state.at, where)
        return canvas.points

    def _paint(self, canvas: Canvas, windows: Windows) -> Tensor:
        """Paint each item's proposal; returns where it is, as positions in an image's memory."""
        where = windows.places(canvas.at[:, : self._count])
        if self._power:
            paint_bumps(canvas, windows, where, power=self._power, wide=self._wide)
        else:
            paint_plain(canvas, where)
        return where

    def _present(self, front: Front, state: Squares) -> Tensor:
        """Where the proposals are: `step` knew, unless items have come or gone since."""
        if self._painted is not None and self._painted[0] is state.at:
            return self._painted[1]
        before = (front.age - 1).clamp_min(0)
        youngest, oldest = (max(age - 1, 0) for age in front.span())
        return self._windows(front, before, youngest, oldest).places(state.at[:, : self._count])

    def _windows(self, front: Front, ages: Tensor, youngest: int, oldest: int) -> Windows:
        """The windows of the steps at these ages."""
        shape, device = tuple(front.points.shape[1:]), front.points.device
        smallest, largest = self._sides[oldest], self._sides[youngest]
        if smallest == largest:  # sides only fall
            return Windows((largest,), shape, device)
        sides = [self._sides[age] for age in ages.tolist()]
        known = sorted(set(sides))
        which = torch.tensor([known.index(side) for side in sides])
        return Windows(tuple(known), shape, device, _there(which, front.points))

    def _stripes(self, front: Front, stream: Stream, draws: list[str]) -> Tensor:
        """Vertical stripes, one pixel wide."""
        channels, _, width = front.points.shape[1:]
        colours = stream.uniform((channels, 1, width), draw=draws, device=front.points.device) - 0.5
        reach = radius(self.ball(front), front.points)
        return (front.originals + _sign(colours) * reach).clamp_(0.0, 1.0)

    def _tiles(self, front: Front, stream: Stream, draws: list[str]) -> Tensor:
        """Bumps all over, as high as the ball allows."""
        channels, height, width = front.points.shape[1:]
        _, down, across = tiles(height, width)
        numbers = stream.uniform((channels + 1, down, across), draw=draws, device=front.points.device) - 0.5
        turned = (numbers[:, -1] > 0).long()
        delta = tiled(_sign(numbers[:, :-1]), turned, height, width, self._power)
        reach = root(self._reach(front), self._power).expand(len(front))
        if self._power == 2:
            delta = delta * column(reach / norm_of(delta, "L2"), delta)
        return to_ball_and_box(front.originals + delta, front.originals, Balls(self.threat.norm, reach))

    def _reach(self, front: Front) -> Tensor:
        """What ``spent`` may grow to, with room for the rounding of every pixel under L2 and L1."""
        reach = torch.as_tensor(self.ball(front).eps, dtype=torch.float32, device=front.points.device)
        if not self._power:
            return reach
        room = _HALF_ULP * front.points[0].numel() ** (1 / self._power)
        return raised((reach - room).clamp_min(0), self._power)

    def _next(self, front: Front, state: Squares, youngest: int, oldest: int) -> Tensor:
        """Go on to the next entry of each item's block, drawing blocks as needed; its colours, (W, C)."""
        if youngest == oldest:
            slot = youngest % _BLOCK
            if slot == 0:
                self._draw(front, state, torch.arange(len(front)))
            state.at = state.ahead[:, slot]
            return state.colours[:, slot]
        slots = front.age % _BLOCK
        due = (slots == 0).nonzero().flatten()
        if len(due):
            self._draw(front, state, due)
        rows = torch.arange(len(slots), device=state.keys.device)
        slots = _there(slots, rows)
        state.at = state.ahead[rows, slots]
        return state.colours[rows, slots]

    def _draw(self, front: Front, state: Squares, rows: Tensor) -> None:
        """Draw a block for some rows, (M,) int64 on the CPU, and sum up exactly what they spent."""
        channels, height, width = front.points.shape[1:]
        numbers = 2 * self._count + channels + (1 if self._power else 0)
        ages, device = front.age[rows], state.keys.device
        first, rows = (_there(index, state.keys) for index in ((ages * numbers)[:, None], rows))
        sides = self._side_table[(ages[:, None] + torch.arange(_BLOCK)).clamp_max(self.steps - 1)]
        room = _there(torch.tensor([height + 1, width + 1]) - sides[..., None], state.keys)
        places = first + torch.arange(_BLOCK * numbers, device=device)
        uniform = uniform_at(state.keys[rows][:, None], places).view(len(rows), _BLOCK, numbers)
        shares = uniform[..., : 2 * self._count].view(len(rows), _BLOCK, self._count, 2)
        corners = (shares * room[:, :, None]).long()
        entry = corners[..., 0] * width + corners[..., 1]
        colours = _sign(uniform[..., -channels:] - 0.5)
        if self._power:
            turned = (uniform[..., 2 * self._count] > 0.5).long()
            entry = torch.cat([entry, turned[..., None]], dim=2)
            spent = spent_on(front.points[rows] - front.originals[rows], self._power)
            state.spent = state.spent.index_copy(0, rows, spent)
        else:
            colours *= state.reach[rows, None, None]
        state.ahead = state.ahead.index_copy(0, rows, entry)
        state.colours = state.colours.index_copy(0, rows, colours)


def _there(index: Tensor, like: Tensor) -> Tensor:
    """An index of the CPU's where ``like`` is, without waiting for the device."""
    return index.to(like.device, non_blocking=True)


def _sign(numbers: Tensor) -> Tensor:
    """-1 or 1, also where a number is 0."""
    return torch.where(numbers < 0, -1.0, 1.0)
