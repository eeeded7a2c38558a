"""The last stretch of an attack for the nearest image: from a success to the nearest one beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_local.attacks.core.decision_boundary import leads, nearest_border
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.hyperplane_projection import towards_hyperplane
from robustbench_local.attacks.core.objective import objective
from robustbench_local.attacks.core.search import Seen
from robustbench_local.attacks.core.work_items import Front, Rows
from robustbench_local.attacks.minimum_norm.nearest_search import NearestSearch, broken_items, enough, usable
from robustbench_local.randomness import Stream
from robustbench_local.threats.lp_ball import column, norm_of
from robustbench_local.threats.threat_model import ThreatModel

STEPS = 8
"""Steps along a border, each a forward and a backward pass; the last point is looked at too."""
HALVINGS = 6
"""Looks of a bisection, each a forward pass."""
SWITCHES = 2
"""Looks at the borders of several classes."""
CLASSES = 9
"""How many classes those are at most, each a backward pass."""
_ROUNDING = 1e-7
"""Rounding of the sums behind a logit, as a share of the norms of what is multiplied."""


def refine(engine: Engine, threat: ThreatModel) -> None:
    """Bring the successes that the engine holds nearer: along a line, to a nearer border, and along it.

    Args:
        engine: After searches that were all a ``NearestSearch``.
        threat: Norm and goal.
    """
    engine.run(_Bisection(engine, threat), broken_items(engine))
    engine.run(_Switch(engine, threat), broken_items(engine))
    engine.run(_Refinement(engine, threat, STEPS), broken_items(engine))


def refinement_cost(threat: ThreatModel) -> tuple[int, int]:
    """Forward and backward passes of ``refine`` an image at most."""
    classes = min(CLASSES, len(threat.targets)) if threat.targets else CLASSES
    return HALVINGS + SWITCHES + 1 + STEPS + 1, SWITCHES * classes + STEPS


class _Switch(NearestSearch[Rows]):
    """To the border that is nearest to the original, whichever class is behind it, seen from the success."""

    name = "switch"
    steps = SWITCHES

    def __init__(self, engine: Engine, threat: ThreatModel) -> None:
        self.engine, self.threat = engine, threat

    def begin(self, front: Front, stream: Stream, draws: list[str]) -> Rows:  # noqa: ARG002
        """At the best point of each image."""
        front.points = self.engine.points[front.rows]
        return Rows()

    def loss(self, front: Front) -> Callable[[Tensor], Tensor]:
        """How far each of the most likely classes is ahead, (W, T)."""
        return lambda logits: leads(logits, front.labels, self.threat, CLASSES)

    def step(self, front: Front, state: Rows, seen: Seen) -> Tensor:  # noqa: ARG002
        """To the nearest of the borders from the original."""
        original, here, norm = front.originals.flatten(1), front.points.flatten(1), self.threat.norm
        normals = [usable(each, front).flatten(1) for each in seen.gradient.unbind(dim=1)]
        way = original - here
        pairs = zip(seen.losses.unbind(dim=1), normals, strict=True)
        gaps = [lead + (way * each).sum(dim=1) - _aim(seen, each, here, 1.0) for lead, each in pairs]
        chosen, distance = nearest_border(torch.stack(gaps, dim=1), torch.stack(normals, dim=1), norm)
        rows = torch.arange(len(chosen), device=chosen.device)
        normal, gap = torch.stack(normals, dim=1)[rows, chosen], torch.stack(gaps, dim=1)[rows, chosen]
        move = towards_hyperplane(original, normal, torch.where(distance.isfinite(), gap, 0.0), norm)
        return (original + move).clamp(0, 1).view_as(front.points)


@dataclass(kw_only=True)
class _Segment(Rows):
    """Where on the line from the original to a success the border lies."""

    change: Tensor
    """(W, C, H, W): the whole line."""
    low: Tensor
    """(W,): share of the line that ends before the border."""
    high: Tensor
    """(W,): share that ends beyond it."""


class _Bisection(NearestSearch[_Segment]):
    """Halving of the line between the original and a success."""

    name = "bisection"
    steps = HALVINGS - 1

    def __init__(self, engine: Engine, threat: ThreatModel) -> None:
        self.engine, self.threat = engine, threat

    def begin(self, front: Front, stream: Stream, draws: list[str]) -> _Segment:  # noqa: ARG002
        """In the middle."""
        change = self.engine.points[front.rows] - front.originals
        front.points = front.originals + change / 2
        nothing = change.new_zeros(len(front))
        return _Segment(change=change, low=nothing, high=nothing + 1.0)

    def step(self, front: Front, state: _Segment, seen: Seen) -> Tensor:
        """In the middle of the half that the border is in."""
        beyond, middle = self.succeeded(front, seen.logits), (state.low + state.high) / 2
        state.low, state.high = (
            torch.where(beyond, state.low, middle),
            torch.where(beyond, middle, state.high),
        )
        return front.originals + column((state.low + state.high) / 2, state.change) * state.change


@dataclass(kw_only=True)
class _Base(Rows):
    """The nearest success so far, and how the classifier looks there."""

    points: Tensor
    """(W, C, H, W)."""
    gradient: Tensor
    """(W, C, H, W), of the margin."""
    margin: Tensor
    """(W,)."""
    distance: Tensor
    """(W,); infinite before the first look."""
    boldness: Tensor
    """(W,) in (0, 1]: how much of the way to the linear model's answer a trial goes."""


class _Refinement(NearestSearch[_Base]):
    """Trials between two points of the border as the gradient draws it.

    One is the border's point nearest to the success in hand, where the linear model is to be trusted most;
    the other is the one nearest to the original, which is the answer if the classifier is linear. A trial
    that is a success and nearer becomes the success in hand; after a failure the next one is half as bold.

    Source: the combination of both projections follows Croce & Hein 2020, arXiv:1907.02044, eq. 8.
    """

    name = "refine"

    def __init__(self, engine: Engine, threat: ThreatModel, steps: int) -> None:
        self.engine, self.threat, self.steps = engine, threat, steps

    def begin(self, front: Front, stream: Stream, draws: list[str]) -> _Base:  # noqa: ARG002
        """At the best point of each image."""
        front.points = self.engine.points[front.rows]
        nothing = front.points.new_zeros(len(front))
        return _Base(
            points=front.points,
            gradient=torch.zeros_like(front.points),
            margin=nothing,
            distance=nothing + torch.inf,
            boldness=nothing + 1.0,
        )

    def loss(self, front: Front) -> Callable[[Tensor], Tensor]:
        """The margin, which is 0 on the border."""
        return objective("margin", self.threat, front.labels)

    def step(self, front: Front, state: _Base, seen: Seen) -> Tensor:
        """Take the trial or not, and try again."""
        self._remember(front, state, seen)
        original, base, normal = (part.flatten(1) for part in (front.originals, state.points, state.gradient))
        # a failure may be due to rounding alone: the next trial also goes further beyond the border
        aim = _aim(seen, normal, base, 1 / state.boldness - 1)
        from_original = state.margin - aim + ((original - base) * normal).sum(dim=1)
        norm = self.threat.norm
        bold = original + towards_hyperplane(original, normal, torch.nan_to_num(from_original), norm)
        timid = base + towards_hyperplane(base, normal, torch.nan_to_num(state.margin - aim), norm)
        trial = torch.lerp(timid, bold, state.boldness[:, None])
        return trial.clamp(0, 1).view_as(front.points)

    def _remember(self, front: Front, state: _Base, seen: Seen) -> None:
        distance = norm_of(front.points - front.originals, self.threat.norm)
        nearer = self.succeeded(front, seen.logits) & (distance < state.distance)
        where = column(nearer, front.points)
        state.points = torch.where(where, front.points, state.points)
        state.gradient = torch.where(where, usable(seen.gradient, front), state.gradient)
        state.margin = torch.where(nearer, seen.losses, state.margin)
        state.distance = torch.where(nearer, distance, state.distance)
        state.boldness = torch.where(nearer, (2 * state.boldness).clamp_max(1.0), state.boldness / 2)


def _aim(seen: Seen, normals: Tensor, points: Tensor, care: float | Tensor) -> Tensor:
    """The margin to aim at, (W,): as little as will still be one in another batch.

    Args:
        seen: The logits say how much counts as a success.
        normals: Gradients of the margin, (W, D).
        points: Where they were taken, (W, D).
        care: Room for the rounding of the sums behind a logit, in units of what is usual, or (W,).
    """
    rounding: Tensor = torch.linalg.vector_norm(normals, dim=1) * torch.linalg.vector_norm(points, dim=1)
    return enough(seen.logits) + care * _ROUNDING * rounding
