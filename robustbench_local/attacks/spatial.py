"""Spatial attack: the rotation and translation that are worst for the classifier."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_local.attacks.base import Attack
from robustbench_local.attacks.core.objective import evaluate_goal
from robustbench_local.classifier import Access, Classifier
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.threat_model import ThreatModel
from robustbench_local.threats.transformations import compute_limits
from robustbench_local.threats.warp import rotate_and_translate

_GRID_POINTS = (31, 5, 5)
"""Points of the grid along the angle and the two shifts: 775 in all."""


@dataclass(frozen=True, kw_only=True)
class Spatial(Attack):
    """Search over rotations and translations by forward passes alone.

    The search for an image ends with its first confirmed success; otherwise the result is the worst point by
    margin. The results are transformation parameters, which the harness applies; see
    ``threats/transformations.py``.

    Args:
        search: ``"grid"``: all points of a grid of 31 angles, 5 shifts across and 5 down. ``"random"``: the
            worst of ``draws`` points drawn uniformly from the family.
        draws: Points of the random search.

    Raises:
        ConfigError: If ``draws`` is below 1.

    Source: Engstrom et al. 2019, arXiv:1712.02779, section 3 (worst-of-10 and grid search).
    """

    norms: ClassVar[frozenset[str]] = frozenset({"spatial"})
    access: ClassVar[Access] = "scores"

    search: Literal["grid", "random"] = "grid"
    draws: int = 10

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ConfigError(f"spatial needs at least 1 draw, got {self.draws}")

    def perturb(
        self,
        classifier: Classifier,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        stream: RandomStream,
        masks: Tensor | None = None,  # noqa: ARG002 - the whole image turns
    ) -> Tensor:
        """Search; see :meth:`Attack.perturb`. Returns parameters, (N, 3)."""
        best = images.new_zeros(len(images), 3)
        if len(images) == 0 or threat.eps == 0:
            return best
        points = self._build_search_points(threat, stream).to(images)
        margins = torch.full((len(images),), -torch.inf, device=images.device)
        rows = torch.arange(len(images), device=images.device)
        for point in range(points.shape[1]):
            tried = points[rows, point]
            with torch.no_grad():
                logits = classifier(rotate_and_translate(images[rows], tried[:, 0], tried[:, 1:]), rows)
            margin, reached = evaluate_goal(logits, labels[rows], threat)
            better = margin > margins[rows]
            best[rows[better]], margins[rows[better]] = tried[better], margin[better]
            rows = rows[~reached]
            if len(rows) == 0:
                break
        return best

    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Return one forward pass per point."""
        points = _GRID_POINTS[0] * _GRID_POINTS[1] * _GRID_POINTS[2] if self.search == "grid" else self.draws
        return (points, 0) if threat.eps else (0, 0)

    def _build_search_points(self, threat: ThreatModel, stream: RandomStream) -> Tensor:
        """Return the points in search order, (N, points, 3)."""
        largest = compute_limits(threat)
        if self.search == "random":
            unit = stream.sample_uniform((self.draws, 3), draw="points", device="cpu", low=-1.0, high=1.0)
            return unit * largest
        # not linspace, whose middle is not exactly zero: the grid contains the original image
        axes = [[2 * step / (count - 1) - 1 for step in range(count)] for count in _GRID_POINTS]
        # distant points succeed on more images, so they come first and the rest of the grid is skipped
        unit = torch.tensor(sorted(itertools.product(*axes), key=lambda at: -sum(abs(value) for value in at)))
        return (unit * largest).expand(len(stream.ids), -1, -1)
