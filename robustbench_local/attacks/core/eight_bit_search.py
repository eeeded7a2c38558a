"""The search from a success of small margin to an 8-bit image with a clear margin.

An attack stops at its first success, and a minimum-norm attack ends on the decision boundary by design.
Neither shows whether the ball contains an adversarial 8-bit image, which is all that a deployed classifier
sees. This search starts at the point where the attack stopped. Every point that it evaluates is an 8-bit
image inside the ball, so that one pass serves both the gradient and the success check.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_local.attacks.core.engine import compute_default_batch_size
from robustbench_local.attacks.core.objective import build_objective, evaluate_goal
from robustbench_local.classifier import Access, Classifier
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.eight_bit import round_to_8bit
from robustbench_local.threats.lp_ball import (
    compute_norms,
    compute_steepest_step,
    project_to_box,
    reshape_for_broadcast,
)
from robustbench_local.threats.threat_model import ThreatModel

GRADIENT_STEPS = 10
"""Steps along the gradient; the last point is evaluated too."""
TRIES_WITHOUT_GRADIENTS = 8
"""Points evaluated without gradients, with the extrapolation, if the attack has no gradients."""
TRIES_WITH_GRADIENTS = 4
"""The same if the attack has gradients."""
_FIRST_STEP_SHARE = 0.5
"""Length of the first step as a fraction of the radius."""
_STEP_DECAY_FACTOR = 0.8
"""Ratio of the lengths of consecutive steps."""
_EXTRAPOLATION_FACTOR = 4.0
"""Factor of an extrapolated Linf change before it is clipped at the radius: pixels with at least a quarter of
the largest change reach the radius."""


@dataclass(frozen=True, kw_only=True)
class FinishingSearch:
    """The settings of the search, the same for all images.

    Args:
        classifier: The attacked classifier, inside ``classifier.evaluation_mode()``.
        threat: A ball, and the goal.
        access: The access that the attack needs: labels, scores or gradients.
        clear_margin_share: Fraction of the logits' range that the margin of a success has to exceed; with
            access ``"labels"`` the margin is unknown and any success is enough.
        eot_samples: Passes averaged per evaluation.
        is_blind: Whether the attacker has no access to the classifier that decides the verdict (a transfer
            attack): then no stopping criterion exists, and the result is the point of the largest margin
            after all steps.
    """

    classifier: Classifier
    threat: ThreatModel
    access: Access
    clear_margin_share: float
    eot_samples: int = 1
    is_blind: bool = False

    def finish_candidates(
        self,
        originals: Tensor,
        labels: Tensor,
        candidates: Tensor,
        stream: RandomStream,
        *,
        rows: Tensor,
        in_8bit: Tensor,
        queries_left: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> Tensor:
        """Search for successes with a clear margin.

        Args:
            originals: (N, C, H, W) in [0, 1].
            labels: True classes, (N,).
            candidates: Successes inside the ball, same shape.
            stream: The images' random numbers.
            rows: (N,) int64: index of each image in the active pass counter.
            in_8bit: (N,) boolean: the images whose result has to be an 8-bit image; the others only need the
                margin.
            queries_left: (N,) int64: remaining queries of each image; None means no limit.
            masks: (N, 1, H, W) boolean, or None.

        Returns:
            Same shape, inside the ball, [0, 1] and the mask: a success with a clear margin; otherwise the
            success of the largest margin; otherwise the candidate.
        """
        size = self.classifier.limit_batch_size(compute_default_batch_size(originals))
        finished = candidates.clone()
        for first in range(0, len(originals), size):
            index = torch.arange(first, min(first + size, len(originals)), device=originals.device)
            front = _ActiveImages(
                search=self,
                originals=originals[index],
                labels=labels[index],
                candidates=candidates[index],
                stream=stream.select_images(index),
                rows=rows[index],
                in_8bit=in_8bit[index],
                left=None if queries_left is None else queries_left[index].clone(),
                masks=None if masks is None else masks[index],
            )
            finished[index] = front.run()
        return finished


def estimate_finishing_cost(access: Access) -> tuple[int, int]:
    """Return the maximum evaluations and gradients per image, (forward, backward)."""
    climb = GRADIENT_STEPS if access == "gradients" else 0
    return _count_tries(access) + climb + (1 if climb else 0), climb


class _ActiveImages:
    """The active images: the state of each, and its best point so far."""

    def __init__(
        self,
        *,
        search: FinishingSearch,
        originals: Tensor,
        labels: Tensor,
        candidates: Tensor,
        stream: RandomStream,
        rows: Tensor,
        in_8bit: Tensor,
        left: Tensor | None,
        masks: Tensor | None,
    ) -> None:
        self._search, self._classifier, self._threat = search, search.classifier, search.threat
        self._originals, self._labels, self._masks = originals, labels, masks
        self._candidates, self._rows, self._in_8bit = candidates, rows, in_8bit
        self._stream, self._queries_left = stream, left
        self._rounded_candidates = self._round_points(candidates, torch.arange(len(rows), device=rows.device))
        self._best = candidates.clone()
        # without access to the evaluated classifier, the most promising point is returned, otherwise only a
        # success
        self._margins = originals.new_full((len(rows),), -torch.inf if search.is_blind else 0.0)
        self._done = torch.zeros_like(rows, dtype=torch.bool)

    def run(self) -> Tensor:
        """Run the extrapolation, the gradient ascent if gradients are allowed, and random trials."""
        self._evaluate_try(0)
        if self._search.access == "gradients":
            self._ascend_margin()
        for number in range(1, _count_tries(self._search.access)):
            self._evaluate_try(number)
        return self._best

    def _find_unfinished_rows(self) -> Tensor:
        """Return the images that are still active and have a query left, int64."""
        able = ~self._done if self._queries_left is None else ~self._done & (self._queries_left > 0)
        return able.nonzero().flatten()

    def _ascend_margin(self) -> None:
        """Take steps along the gradient of the margin, each from the rounded point."""
        index = self._find_unfinished_rows()
        points = self._candidates[index]
        for step in range(GRADIENT_STEPS):
            if len(index) == 0:
                return
            rounded_points = self._round_points(points, index)
            logits, gradient = self._compute_gradient(rounded_points, index)
            self._update_best_points(index, rounded_points, logits)
            length = _STEP_DECAY_FACTOR**step * _FIRST_STEP_SHARE
            if self._threat.norm == "L0":  # the changed pixels may take any color
                direction = compute_steepest_step(gradient, "Linf") * _mark_changed_pixels(
                    self._candidates[index], self._originals[index]
                )
            else:
                direction = self._threat.eps * compute_steepest_step(gradient, self._threat.norm)
            moved = points + length * direction
            moved = self._project_points(moved, index)
            # points that the gradient does not move would be evaluated repeatedly
            going = ~self._done[index] & (moved != points).flatten(1).any(dim=1)
            index, points = index[going], moved[going]
        rounded_points = self._round_points(points, index)
        self._evaluate_points(index, rounded_points)

    def _evaluate_try(self, number: int) -> None:
        """Evaluate a point between the candidate and the ball's surface, or a random one beside it."""
        index = self._find_unfinished_rows()
        if len(index) == 0:
            return
        originals, candidates = self._originals[index], self._candidates[index]
        beyond = self._project_points(
            originals + _extrapolate_change(candidates - originals, self._threat), index
        )
        points = beyond
        if number > 0:
            shape, device = tuple(originals.shape[1:]), originals.device
            stream = self._stream.select_images(index)
            share = stream.sample_uniform(shape, draw=f"finish/{number}/share", device=device)
            tremble = stream.sample_uniform(
                shape, draw=f"finish/{number}/level", device=device, low=-0.5, high=0.5
            )
            # stochastic rounding: the probability to round up is the distance from the lower level
            tremble = tremble / 255 * reshape_for_broadcast(self._in_8bit[index], originals)
            points = torch.lerp(candidates, beyond, share) + tremble
            points = torch.where(candidates == originals, originals, points)
            points = self._project_points(points, index)
        rounded_points = self._round_points(points, index)
        fresh = (rounded_points != self._rounded_candidates[index]).flatten(1).any(dim=1)
        self._evaluate_points(index[fresh], rounded_points[fresh])

    def _project_points(self, points: Tensor, index: Tensor) -> Tensor:
        masks = None if self._masks is None else self._masks[index]
        return project_to_box(points, self._originals[index], self._threat, masks)

    def _round_points(self, points: Tensor, index: Tensor) -> Tensor:
        """Round points to 8-bit images inside the ball, where requested."""
        rounded, _ = round_to_8bit(points, self._originals[index], self._threat)
        return torch.where(reshape_for_broadcast(self._in_8bit[index], points), rounded, points)

    def _evaluate_points(self, index: Tensor, rounded_points: Tensor) -> None:
        """Evaluate points without gradients."""
        if len(index):
            draws = [
                self._classifier(rounded_points, self._rows[index]) for _ in range(self._search.eot_samples)
            ]
            if self._queries_left is not None:
                self._queries_left[index] -= 1
            self._update_best_points(index, rounded_points, torch.stack(draws).mean(dim=0))

    def _compute_gradient(self, rounded_points: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits and the gradient of the margin, inside the mask."""
        climbed = build_objective("margin", self._threat, self._labels[index])
        evaluations = [
            self._classifier.compute_gradient(rounded_points, climbed, self._rows[index])
            for _ in range(self._search.eot_samples)
        ]
        logits, gradient = (torch.stack([look[part] for look in evaluations]).mean(dim=0) for part in (0, 2))
        gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
        return logits, gradient if self._masks is None else gradient * self._masks[index]

    def _update_best_points(self, index: Tensor, rounded_points: Tensor, logits: Tensor) -> None:
        """Store points that are better than the known ones, and end finished searches."""
        margins, _ = evaluate_goal(logits, self._labels[index], self._threat)
        low, high = logits.aminmax(dim=1)
        share = 0.0 if self._search.access == "labels" else self._search.clear_margin_share
        better = margins > self._margins[index]
        self._best[index[better]] = rounded_points[better]
        self._margins[index[better]] = margins[better]
        if not self._search.is_blind:
            self._done[index] |= (margins > share * (high - low)) | margins.isposinf()


def _count_tries(access: Access) -> int:
    return TRIES_WITH_GRADIENTS if access == "gradients" else TRIES_WITHOUT_GRADIENTS


def _extrapolate_change(change: Tensor, threat: ThreatModel) -> Tensor:
    """Extend the change to the ball's limit: to its corner under Linf and L0, otherwise to its surface."""
    if threat.norm == "L0":
        return change.sign()  # as far as the box goes
    size = reshape_for_broadcast(compute_norms(change, threat.norm), change)
    factor = threat.eps / size.clamp_min(torch.finfo(change.dtype).tiny)
    if threat.norm == "Linf":
        return (_EXTRAPOLATION_FACTOR * factor * change).clamp(-threat.eps, threat.eps)
    return factor * change


def _mark_changed_pixels(points: Tensor, originals: Tensor) -> Tensor:
    """Mark the pixels of which any channel has changed, (N, 1, H, W) boolean."""
    return (points != originals).any(dim=1, keepdim=True)
