"""Common parts of label-only attacks: decision oracle, first success, line search to the boundary."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor
from torch.nn import functional

from robustbench_local.attacks.base import AttackInputs
from robustbench_local.attacks.core.objective import compute_success_margin
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import compute_norms, reshape_for_broadcast

MIN_QUERIES = 100
"""Minimum queries; with fewer, a label-only attack finds little more than a first success."""
_POINTS_PER_CALL = 64
"""Maximum points per call if the batch has fewer images and the classifier has no batch size."""
_START_IMAGES_PER_TRY = 8
"""Random images per attempt to find a first success."""
_START_NOISE_SIDES = (None, 1, 2, 4, 8)
"""Coarseness of those images in order of the attempts, None for independent pixels. A uniform color or a few
patches may reach classes that noise does not."""
_OVERSHOOT_SHARE = 1e-4
"""Relative distance by which a result is moved beyond the boundary, so that another batch shape does not
change the verdict."""


def check_queries(name: str, queries: int) -> None:
    """Refuse a query budget that is too small for a label-only attack.

    Raises:
        ConfigError: If it is too small.
    """
    if queries < MIN_QUERIES:
        raise ConfigError(f"{name} needs at least {MIN_QUERIES} queries, got {queries}")


class DecisionOracle:
    """The nearest success of each image so far, and its remaining queries.

    Args:
        inputs: Arguments of the attack. The classifier is queried for labels only: whether a point reaches
            the goal. The threat model gives the norm of the distances and the largest distance that counts.
        queries: Maximum queries per image; fewer if the classifier's query limit is lower.

    Attributes:
        queries_left: Remaining queries of each image, (N,), without the one reserved for the final
            verification.
        points: The nearest success of each image, (N, C, H, W); the original where none is known.
        distances: Its distance, (N,); infinite where none is known.
    """

    def __init__(self, inputs: AttackInputs, queries: int) -> None:
        classifier, images, labels = inputs.classifier, inputs.images, inputs.labels
        self._classifier, self._labels, self._threat = classifier, labels, inputs.threat
        self._points_per_call = classifier.settings.batch_size or max(len(images), _POINTS_PER_CALL)
        self.images = images
        self.points = images.clone()
        self.distances = images.new_full((len(images),), torch.inf)
        self.queries_left = torch.full_like(labels, queries - 1)
        allowed = classifier.queries_left(torch.arange(len(images), device=images.device))
        if allowed is not None:
            self.queries_left = torch.minimum(self.queries_left, allowed.to(labels.device) - 1)
        # float32 cannot resolve points closer to each other than a millionth of their distance
        tolerance = min(max(images[0].numel() ** -1.5, 1e-6), 1e-3)
        self.bisection_steps = math.ceil(-math.log2(tolerance))
        """Queries that `bisect_to_boundary` spends per image."""

    def query_success(self, rows: Tensor, points: Tensor) -> Tensor:
        """Return whether points reach the goal, for one query each; the caller checks that queries are left.

        Args:
            rows: Image index of each point, (M,), possibly repeated.
            points: (M, C, H, W) in [0, 1].

        Returns:
            Boolean, (M,).
        """
        answers = []
        for first in range(0, len(rows), self._points_per_call):
            chunk = rows[first : first + self._points_per_call]
            logits = self._classifier(points[first : first + self._points_per_call], chunk)
            answers.append(compute_success_margin(logits, self._labels[chunk], self._threat) > 0)
        self.queries_left.index_add_(0, rows, -torch.ones_like(rows))
        return torch.cat([rows.new_zeros(0, dtype=torch.bool), *answers])

    def update_nearest(self, rows: Tensor, points: Tensor) -> None:
        """Store successes that are nearer than the known ones; each image at most once."""
        distances = self.compute_distances(rows, points)
        nearer = distances < self.distances[rows]
        self.points[rows[nearer]] = points[nearer]
        self.distances[rows[nearer]] = distances[nearer]

    def compute_distances(self, rows: Tensor, points: Tensor) -> Tensor:
        """Return the distance of points from their originals, (M,), in the threat model's norm."""
        return compute_norms(points - self.images[rows], self._threat.norm)

    def find_starting_points(self, stream: RandomStream) -> Tensor:
        """Find a first success for each image: itself, or a random image blended with it up to the boundary.

        Args:
            stream: The images' random numbers.

        Returns:
            Indices of the images with a success at a distance above zero, (M,).
        """
        waiting = (self.queries_left > 0).nonzero().flatten()
        already = self.query_success(waiting, self.images[waiting])
        self.update_nearest(waiting[already], self.images[waiting[already]])
        rows, waiting = waiting[:0], waiting[~already]
        reserved_queries = (
            self.queries_left // 2
        )  # a start that costs more than half of the queries leaves too few to use it
        for attempt in itertools.count():
            waiting = waiting[self.queries_left[waiting] - _START_IMAGES_PER_TRY >= reserved_queries[waiting]]
            if len(waiting) == 0:
                break
            tries = self._draw_random_images(stream.select_images(waiting), attempt)
            hits = self.query_success(
                waiting.repeat_interleave(_START_IMAGES_PER_TRY), tries.flatten(0, 1)
            ).view(-1, _START_IMAGES_PER_TRY)
            hit = hits.any(dim=1)
            started, first = waiting[hit], hits.long().argmax(dim=1)[hit]
            self.bisect_to_boundary(started, tries[hit, first])
            rows, waiting = torch.cat([rows, started]), waiting[~hit]
        return rows.sort().values

    def bisect_to_boundary(self, rows: Tensor, points: Tensor) -> Tensor:
        """Bisect between the originals and successes until they are close to the decision boundary.

        Args:
            rows: Indices of the images, (M,), without repetition.
            points: Successes, (M, C, H, W).

        Returns:
            Successes at no larger distance; an image without queries stops at its current point.
        """
        originals = self.images[rows]
        low, high = points.new_zeros(len(rows)), points.new_ones(len(rows))
        for _ in range(self.bisection_steps):
            able = (self.queries_left[rows] > 0).nonzero().flatten()
            if len(able) == 0:
                break
            middle = (low[able] + high[able]) / 2
            reached = self.query_success(
                rows[able], self._interpolate_points(originals[able], points[able], middle)
            )
            high[able] = torch.where(reached, middle, high[able])
            low[able] = torch.where(reached, low[able], middle)
        nearest = self._interpolate_points(originals, points, high)
        self.update_nearest(rows, nearest)
        return nearest

    def build_candidates(self) -> Tensor:
        """Return the nearest successes, slightly beyond the boundary if possible; originals otherwise."""
        counts = self.distances <= self._threat.eps
        rows = (counts & (self.distances > 0) & (self.queries_left >= 0)).nonzero().flatten()
        if len(rows):
            originals = self.images[rows]
            pushed = (originals + (1 + _OVERSHOOT_SHARE) * (self.points[rows] - originals)).clamp(0.0, 1.0)
            holds = self.query_success(rows, pushed) & (
                self.compute_distances(rows, pushed) <= self._threat.eps
            )
            self.points[rows[holds]] = pushed[holds]
        return torch.where(reshape_for_broadcast(counts, self.images), self.points, self.images)

    def _draw_random_images(self, stream: RandomStream, attempt: int) -> Tensor:
        """Draw random images of one coarseness, (M, _TRIES, C, H, W)."""
        channels, height, width = self.images.shape[1:]
        side = _START_NOISE_SIDES[attempt % len(_START_NOISE_SIDES)]
        size = (height, width) if side is None else (min(side, height), min(side, width))
        shape = (_START_IMAGES_PER_TRY * channels, *size)
        noise = stream.sample_uniform(shape, draw=f"start/{attempt}", device=self.images.device)
        return functional.interpolate(noise, (height, width)).view(
            -1, _START_IMAGES_PER_TRY, channels, height, width
        )

    def _interpolate_points(self, originals: Tensor, points: Tensor, share: Tensor) -> Tensor:
        """Return points at a fraction, (M,), of the distance: on the line, or for Linf in the cube."""
        if self._threat.norm == "Linf":
            reach = reshape_for_broadcast(share * compute_norms(points - originals, "Linf"), points)
            blended = torch.clamp(points, originals - reach, originals + reach)
        else:
            blended = originals + reshape_for_broadcast(share, points) * (points - originals)
        # a fraction of 1 is exactly the queried point
        return torch.where(reshape_for_broadcast(share, points) == 1, points, blended.clamp(0.0, 1.0))
