"""Sparse-RS: a random search over which pixels to change, and to which colors; it uses scores only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.engine_attack import EngineAttack
from robustbench_local.attacks.core.objective import build_objective, evaluate_goal
from robustbench_local.attacks.core.search import PointEvaluation, Search
from robustbench_local.attacks.core.work_items import ActiveSet, TensorTable
from robustbench_local.classifier import Access
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import RandomStream, sample_uniform_at
from robustbench_local.threats.lp_ball import merge_rows, select_largest_pixels
from robustbench_local.threats.threat_model import ThreatModel

_SCHEDULE = ((0, 2), (50, 4), (200, 5), (500, 6), (1000, 8), (2000, 10), (4000, 12), (6000, 15), (8000, 20))
"""Step after which the share of exchanged pixels is the first one divided by the second number."""
_SCHEDULE_QUERIES = 10_000
"""Queries that the schedule is made for."""
_SCORE_NOISE_SHARE = 1e-5
"""Minimum relative increase of a negative score: smaller ones may be rounding, which differs in another
batch."""

_BITS_PER_NUMBER = 24
"""Random bits of a number, each the color of a channel."""


@dataclass(frozen=True, kw_only=True)
class SparseRS(EngineAttack):
    """Sparse-RS for L0: exchanges some of the changed pixels in each step, and keeps what raises the loss.

    The loss is the margin of the raw scores, or with targets their cross-entropy. Colors are corners of the
    color cube: each channel is 0 or 1.

    Args:
        queries: Maximum forward passes per image over all restarts, divided equally between them.
        exchanged_share: Share of the changed pixels that the first step exchanges, above 0 and at most 1; the
            paper uses 0.3, and 0.1 with targets. It falls to a twentieth.
        restarts: Searches per image, at least 1.
        rescale: Whether the schedule of that share, made for 10,000 queries, is scaled to the queries of a
            restart.

    Raises:
        ConfigError: If a number is out of range.

    Source: Croce, Andriushchenko, Singh, Flammarion & Hein 2022, arXiv:2006.12834, algorithms 1 and 2.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"L0"})
    regions: ClassVar[frozenset[str]] = frozenset({"image", "mask"})
    access: ClassVar[Access] = "scores"

    queries: int = 10_000
    exchanged_share: float = 0.3
    restarts: int = 1
    rescale: bool = False

    def __post_init__(self) -> None:
        if self.restarts < 1 or self.queries < 2 * self.restarts:
            raise ConfigError(
                f"SparseRS needs at least 1 restart and 2 queries for each, "
                f"got {self.restarts} and {self.queries} queries"
            )
        if not 0 < self.exchanged_share <= 1:
            raise ConfigError(
                f"SparseRS's exchanged_share must be above 0 and at most 1, got {self.exchanged_share}"
            )

    def run_searches(self, engine: Engine, threat: ThreatModel) -> None:
        """Run a search of every unfinished image for each restart."""
        for restart in range(self.restarts):
            engine.run(SparseRSSearch(self, threat), engine.build_items(restart))

    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Return its queries, and no backward pass."""
        return (self.queries // self.restarts * self.restarts, 0) if threat.eps else (0, 0)


@dataclass(kw_only=True)
class _SparseRSState(TensorTable):
    """The changed pixels of each item."""

    stream_keys: Tensor
    """(W,): seed of its stream of random numbers."""
    pixels: Tensor
    """(W, 1, H, W) boolean: the changed pixels of ``front.best_points``."""
    proposed_pixels: Tensor
    """Same shape: those of ``front.points``."""


class SparseRSSearch(Search[_SparseRSState]):
    """Sparse-RS on the engine.

    Args:
        attack: Queries and schedule.
        threat: Number of pixels, goal and region.
    """

    name = "sparse-rs"

    def __init__(self, attack: SparseRS, threat: ThreatModel) -> None:
        self.threat, self._attack = threat, attack
        # the evaluation of the start is a query too
        self.steps = attack.queries // attack.restarts - 1

    def start_items(self, front: ActiveSet, stream: RandomStream, draws: list[str]) -> _SparseRSState:
        """Start with random colors on random pixels."""
        keys = stream.compute_keys(draws, front.points.device)
        ranks, colors = _draw_proposals(front, keys, torch.zeros_like(front.rows))
        pixels = select_largest_pixels(ranks, self.threat.eps) & (ranks >= 0)
        front.points = torch.where(pixels, colors, front.originals)
        return _SparseRSState(stream_keys=keys, pixels=pixels, proposed_pixels=pixels)

    def score_points(self, front: ActiveSet, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Score by the margin, or with targets by the cross-entropy; a success is better than anything."""
        margins, done = evaluate_goal(logits, front.labels, self.threat)
        if not self.threat.targets:
            return margins, done
        climbed: Callable[[Tensor], Tensor] = build_objective("ce", self.threat, front.labels)
        return torch.where(done, torch.inf, torch.nan_to_num(climbed(logits), nan=-torch.inf)), done

    def is_improvement(self, scores: Tensor, best_scores: Tensor) -> Tensor:
        """Return whether the score rises by more than rounding."""
        return scores * (1 + _SCORE_NOISE_SHARE) > best_scores

    def update_best_points(self, front: ActiveSet, scores: Tensor) -> None:
        """Accept the proposals that raise the score."""
        state: _SparseRSState = front.state  # type: ignore[assignment]  # start_items made it
        better = self.is_improvement(scores, front.best_scores)
        front.best_scores = torch.where(better, scores, front.best_scores)
        merge_rows(better, front.points, front.best_points, out=front.best_points)
        state.pixels = torch.where(better[:, None, None, None], state.proposed_pixels, state.pixels)

    def step(self, front: ActiveSet, state: _SparseRSState, evaluation: PointEvaluation) -> Tensor:  # noqa: ARG002 - scored before
        """Reset some of the changed pixels, and change as many others."""
        ranks, colors = _draw_proposals(front, state.stream_keys, (front.age + 1).to(front.rows.device))
        count = torch.tensor([self._count_exchanged(age) for age in front.age.tolist()])
        count = count.to(front.rows.device)
        pixels, best = state.pixels, front.best_points
        is_free = ~pixels & (ranks >= 0)
        exchanged = torch.minimum(count, is_free.flatten(1).sum(dim=1))
        entering = _select_first_pixels(ranks.masked_fill(~is_free, -1.0), exchanged)
        leaving = _select_first_pixels(ranks.masked_fill(~pixels, -1.0), exchanged)
        # where no pixel is free, changed ones get other colors instead
        recolored = torch.minimum(count, pixels.flatten(1).sum(dim=1)) * (exchanged == 0)
        entering = entering | _select_first_pixels(ranks.masked_fill(~pixels, -1.0), recolored)
        single = (count == 1)[:, None, None, None] & (colors == best).all(dim=1, keepdim=True)
        colors = torch.where(single, 1 - colors, colors)  # a single pixel never keeps its color
        state.proposed_pixels = (pixels & ~leaving) | entering
        return torch.where(entering, colors, torch.where(leaving, front.originals, best))

    def _count_exchanged(self, age: int) -> int:
        """Return the number of pixels that the step after this many steps exchanges."""
        if self._attack.rescale:
            age = age * _SCHEDULE_QUERIES // (self.steps + 1)
        divisor = next((divisor for after, divisor in reversed(_SCHEDULE) if age + 1 > after), 1)
        return max(1, math.floor(self._attack.exchanged_share / divisor * self.threat.eps))


def _draw_proposals(front: ActiveSet, keys: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Draw an order of the pixels and a color for each.

    Args:
        front: The items.
        keys: (W,) int64: keys of their streams.
        draws: (W,) int64: index of each item's draw.

    Returns:
        (W, 1, H, W): random ranks in [0, 1), -1 outside the masks. And (W, C, H, W): random corners of the
        color cube, each bit of a random number a channel.
    """
    channels, height, width = front.points.shape[1:]
    words = -(-channels // _BITS_PER_NUMBER)
    size = (1 + words) * height * width
    positions = draws[:, None] * size + torch.arange(size, device=keys.device)
    numbers = sample_uniform_at(keys[:, None], positions).view(len(keys), 1 + words, height, width)
    ranks, bits = numbers[:, :1], (numbers[:, 1:] * 2**_BITS_PER_NUMBER).long()
    colors = torch.stack(
        [
            bits[:, channel // _BITS_PER_NUMBER] >> (channel % _BITS_PER_NUMBER) & 1
            for channel in range(channels)
        ],
        dim=1,
    )
    if front.masks is not None:
        ranks = torch.where(front.masks, ranks, -1.0)
    return ranks, colors.to(front.points)


def _select_first_pixels(ranks: Tensor, counts: Tensor) -> Tensor:
    """Mark the pixels of the highest ranks, (W, 1, H, W) boolean; a number per item, (W,)."""
    flat = ranks.flatten(1)
    best = flat.topk(min(int(counts.max()), flat.shape[1]), dim=1).indices
    wanted = torch.arange(best.shape[1], device=flat.device) < counts[:, None]
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, best, wanted).view_as(ranks)
