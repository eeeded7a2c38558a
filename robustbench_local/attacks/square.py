"""Square: random squares, kept where they help; only the scores of the classifier are needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_local.attacks.base import Attack
from robustbench_local.attacks.engine import Engine, Search, Seen
from robustbench_local.attacks.front import Front, Rows
from robustbench_local.attacks.windows import Windows, tiled, tiles, window_sides
from robustbench_local.classifier import Access, Classifier
from robustbench_local.errors import ConfigError
from robustbench_local.geometry import column, norm_of, radius, to_ball_and_box
from robustbench_local.randomness import Stream, uniform_at
from robustbench_local.threat import ThreatModel

_BLOCK = 64
"""Steps whose random numbers are drawn at once."""
_HALF_ULP = 2.0**-25
"""How far rounding moves a pixel at most."""
_TINY = 1e-30


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Square attack: random search with windows that shrink, on the margin of the raw scores.

    Args:
        queries: Most forward passes for an image, all restarts together; each has an equal share.
        p: Share of the image's pixels in the first windows, above 0 and at most 1.
        restarts: Searches for an image, at least 1.

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
            engine.run(SquareSearch(threat=threat, steps=steps, p=self.p), engine.items(restart))
        return engine.points

    def cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Its queries, and no backward pass."""
        return (self.queries // self.restarts * self.restarts, 0) if threat.eps else (0, 0)


@dataclass(kw_only=True)
class Squares(Rows):
    """What Square remembers of each item."""

    keys: Tensor
    """(W,): what opens its stream of random numbers."""
    corners: Tensor
    """(W, block, windows) int64: where each window of a block of steps lies, counted within a channel."""
    colours: Tensor
    """(W, block, C): what a window gets, with its sign: the radius under Linf, else 1."""
    turned: Tensor
    """(W, block) int64: which of the two patterns a window gets under L2 and L1."""
    at: Tensor
    """(W, windows): the windows outside of which ``front.points`` are ``front.best_points``."""
    reach: Tensor
    """(W,): the radius; under L2 and L1, what ``spent`` may grow to."""
    spent: Tensor
    """(W,): sum of the absolute changes, squared under L2, of ``front.best_points``; unused under Linf."""
    proposed: Tensor
    """(W,): that of ``front.points``."""


class SquareSearch(Search[Squares]):
    """Square's search on the engine. A proposal is painted into the present points, and wiped if rejected.

    Args:
        threat: Budget, goal and region.
        steps: Proposals for an item.
        p: Share of the image's pixels in the first windows.
        name: Name of the stage.
    """

    def __init__(self, *, threat: ThreatModel, steps: int, p: float = 0.8, name: str = "square") -> None:
        self.threat, self.steps, self.name, self._p = threat, steps, name, p
        self._power = {"Linf": 0, "L2": 2, "L1": 1}[threat.norm]
        self._sides = torch.empty(0, dtype=torch.int64)

    def begin(self, front: Front, stream: Stream, draws: list[str]) -> Squares:
        """Stripes of random colours under Linf, tiles under L2 and L1."""
        channels, height, width = front.points.shape[1:]
        smallest = 3 if self._power else 1
        self._sides = window_sides(
            self.steps, self._p, height, width, smallest=smallest, odd=bool(self._power)
        )
        front.originals = front.originals.contiguous()
        start = self._tiles if self._power else self._stripes
        front.points = start(front, stream, draws).contiguous()
        front.best_points = front.points.clone()
        device, windows = front.points.device, 2 if self._power else 1
        empty = torch.zeros(len(front), _BLOCK, windows, dtype=torch.int64, device=device)
        spent = _sum(front.points - front.originals, self._power)
        return Squares(
            keys=stream.keys([f"{draw}/windows" for draw in draws], device),
            corners=empty,
            colours=spent.new_zeros(len(front), _BLOCK, channels),
            turned=empty[:, :, 0],
            at=empty[:, 0],
            reach=self._reach(front).expand(len(front)),
            spent=spent,
            proposed=spent,
        )

    def keep(self, front: Front, scores: Tensor) -> None:
        """Accept the proposals that raise the score, and wipe the others: in their windows only."""
        state: Squares = front.state  # type: ignore[assignment]  # begin made it
        better = scores > front.best_scores
        front.best_scores = torch.where(better, scores, front.best_scores)
        if self._power:
            state.spent = torch.where(better, state.proposed, state.spent)
        windows = self._windows(front, ages=(front.age - 1).clamp_min_(0))
        points, best = front.points.flatten(1), front.best_points.flatten(1)
        for corners in state.at.unbind(1):
            where = windows.places(corners)
            kept = torch.where(better[:, None], points.gather(1, where), best.gather(1, where))
            points.scatter_(1, where, kept)
            best.scatter_(1, where, kept)

    def step(self, front: Front, state: Squares, seen: Seen) -> Tensor:  # noqa: ARG002 - keep has judged
        """The next proposals, painted into the points."""
        slots = front.age % _BLOCK
        first, last = (int(slot) for slot in slots.aminmax())
        if first == 0:
            self._draw(front, state, (slots == 0).nonzero().flatten())
        tables = (state.corners, state.colours, state.turned)
        if first == last:
            state.at, colours, turned = (table[:, first] for table in tables)
        else:
            rows = torch.arange(len(slots), device=state.keys.device)
            slots = slots.to(rows.device)
            state.at, colours, turned = (table[rows, slots] for table in tables)
        windows = self._windows(front, front.age)
        if self._power:
            self._paint_bumps(front, state, windows, colours, turned)
        else:
            self._paint_plain(front, state, windows, colours)
        return front.points

    def _windows(self, front: Front, ages: Tensor) -> Windows:
        """The windows of the steps at these ages."""
        return Windows(self._sides[ages], tuple(front.points.shape[1:]), front.points.device)

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
        if self._power == 2:
            delta = delta / column(norm_of(delta, "L2"), delta) * radius(self.ball(front), delta)
        return to_ball_and_box(front.originals + delta, front.originals, self.ball(front))

    def _reach(self, front: Front) -> Tensor:
        """What ``spent`` may grow to, with room for the rounding of every pixel under L2 and L1."""
        reach = torch.as_tensor(self.ball(front).eps, dtype=torch.float32, device=front.points.device)
        if not self._power:
            return reach
        room = _HALF_ULP * front.points[0].numel() ** (1 / self._power)
        return (reach - room).clamp_min(0) ** self._power

    def _draw(self, front: Front, state: Squares, rows: Tensor) -> None:
        """Random windows and colours of the next steps for some rows, and an exact sum of what they spent."""
        channels, height, width = front.points.shape[1:]
        windows = state.at.shape[1]
        numbers = 2 * windows + 1 + channels
        ages = front.age[rows]
        first = (ages * numbers)[:, None].to(state.keys.device)
        rows = rows.to(state.keys.device)
        counter = torch.arange(_BLOCK * numbers, device=rows.device)
        uniform = uniform_at(state.keys[rows][:, None], first + counter).view(len(rows), _BLOCK, numbers)
        ahead = (ages[:, None] + torch.arange(_BLOCK)).clamp_max(self.steps - 1)
        sides = self._sides[ahead][..., None].to(rows.device)
        top, left, rest = uniform.split([windows, windows, 1 + channels], dim=2)
        down, across = (top * (height - sides + 1)).long(), (left * (width - sides + 1)).long()
        colours = _sign(rest[..., 1:] - 0.5)
        if not self._power:
            colours *= state.reach[rows, None, None]
        state.corners = state.corners.index_copy(0, rows, down * width + across)
        state.colours = state.colours.index_copy(0, rows, colours)
        state.turned = state.turned.index_copy(0, rows, (rest[..., 0] > 0.5).long())
        if self._power:
            exact = _sum(front.points[rows] - front.originals[rows], self._power)
            state.spent = state.spent.index_copy(0, rows, exact)

    def _paint_plain(self, front: Front, state: Squares, windows: Windows, colours: Tensor) -> None:
        """Linf: one colour a channel, at the border of the ball."""
        where = windows.places(state.at[:, 0])
        pixels = front.originals.flatten(1).gather(1, where)
        pixels.unflatten(1, (colours.shape[1], -1)).add_(colours[:, :, None])
        front.points.flatten(1).scatter_(1, where, pixels.clamp_(0.0, 1.0))

    def _paint_bumps(
        self, front: Front, state: Squares, windows: Windows, colours: Tensor, turned: Tensor
    ) -> None:
        """L2, L1: wipe the second window; its change, and what was not spent, goes into the first."""
        power, channels = self._power, colours.shape[1]
        points, originals = front.points.flatten(1), front.originals.flatten(1)
        here, there = (windows.places(corners) for corners in state.at.unbind(1))
        pixels, wiped = originals.gather(1, here), originals.gather(1, there)
        old = points.gather(1, here) - pixels
        sizes = windows.sums(old.abs().pow(power)) ** (1 / power)
        taken = windows.sums((points.gather(1, there) - wiped).abs().pow(power))
        points.scatter_(1, there, wiped)
        taken += windows.sums((points.gather(1, here) - pixels).abs().pow(power))
        budget = taken + (state.reach - state.spent).clamp_min(0)[:, None] / channels
        pattern = colours[:, :, None] * windows.bumps(turned, power)[:, None]
        new = pattern + old.unflatten(1, (channels, -1)) / sizes.clamp_min(_TINY)[:, :, None]
        sizes = windows.sums(new.flatten(1).abs().pow(power)).clamp_min(_TINY)
        new *= (budget / sizes).pow(1 / power)[:, :, None]
        painted = (pixels + new.flatten(1)).clamp_(0.0, 1.0)
        points.scatter_(1, here, painted)
        spending = windows.sums((painted - pixels).abs().pow(power)) - taken
        state.proposed = state.spent + spending.sum(dim=1)


def _sign(numbers: Tensor) -> Tensor:
    """-1 or 1, also where a number is 0."""
    return torch.where(numbers < 0, -1.0, 1.0)


def _sum(delta: Tensor, power: int) -> Tensor:
    """Sum of the absolute values to a power, (N,)."""
    return delta.flatten(1).abs().pow(power).sum(dim=1)
