"""Expectation over transformation: one object, optimized over many views of it at once.

The common part of stickers and patches: the loss averaged over fresh views in every step, terms for
printability, and the best object selected on held-out views.

Source: Athalye et al. 2018, arXiv:1707.07397, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_local.attacks.base import Attack, Measure
from robustbench_local.attacks.core.engine import PIXEL_VALUES_PER_BATCH
from robustbench_local.attacks.core.objective import (
    LossName,
    build_objective,
    check_counts,
    check_loss,
    check_loss_defined,
    compute_success_margin,
)
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.gradient_repair import remove_nonfinite
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.physical.camera import photograph_scenes
from robustbench_local.threats.physical.scene import compose_scenes
from robustbench_local.threats.physical.views import ViewRange, Views, build_plain_views, sample_views
from robustbench_local.threats.threat_model import ThreatModel

EVALUATION_COUNT = 12
"""Evaluations on the selection views, evenly over the steps, the last one included."""
EVALUATION_VIEWS_FACTOR = 2
"""Views of such an evaluation, as a multiple of the views of a step."""
_ADAM_BETAS = (0.9, 0.999)
_ADAM_EPSILON = 1e-12
"""Keeps pixels with zero gradient in place."""
LAST_LEARNING_RATE_SHARE = 0.1
"""Ratio of Adam's last step size to its first."""


@dataclass(frozen=True, kw_only=True)
class EOTAttack(Attack):
    """Adam on the mean loss over views drawn anew in every step.

    Args:
        steps: Steps of each restart.
        views: Views of each sign per step. With 0 the object is optimized on the signs as they are, without a
            camera: the control that shows the effect of the views.
        learning_rate: Adam's first step size in pixel units of [0, 1]; it falls to a tenth along a cosine.
        loss: ``"margin"``, ``"ce"`` or ``"dlr"``; towards the target set if the goal is targeted.
        tv: Weight of the total variation.
        nps: Weight of the distance to printable colors.
        restarts: Searches from different initial colors; the best result is returned.
        ranges: Ranges of the parameters of the views.

    Raises:
        ConfigError: If a number is out of range or the loss unknown.
    """

    measure: ClassVar[Measure] = "views"

    steps: int = 300
    views: int = 32
    learning_rate: float = 0.1
    loss: LossName = "margin"
    tv: float = 0.0
    nps: float = 0.0
    restarts: int = 1
    ranges: ViewRange = field(default_factory=ViewRange)

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_loss(self.loss)
        check_counts(name, steps=self.steps, restarts=self.restarts)
        for key in ("views", "tv", "nps"):
            if not 0 <= getattr(self, key) < float("inf"):
                raise ConfigError(f"{name}'s {key} must be at least 0, got {getattr(self, key)}")
        if not 0 < self.learning_rate <= 1:
            raise ConfigError(
                f"{name}'s learning_rate must be above 0 and at most 1, got {self.learning_rate}"
            )

    def check_support(self, threat: ThreatModel, classifier: Classifier) -> None:
        """See :meth:`Attack.check_support`; also refuses a loss that is undefined for the goal."""
        super().check_support(threat, classifier)
        check_loss_defined(self.loss, threat, classifier.num_classes)
        if classifier.abstention is not None:
            raise ConfigError("may reject images, and views are not evaluated then", where=classifier.name)

    def estimate_search_cost(self, steps: int) -> tuple[int, int]:
        """Return the forward and backward passes per image of one search of this number of steps."""
        step_views, evaluation_views = (
            (self.views, EVALUATION_VIEWS_FACTOR * self.views) if self.views else (1, 1)
        )
        return steps * step_views + len(_list_evaluation_steps(steps)) * evaluation_views, steps * step_views


@dataclass(frozen=True, kw_only=True)
class EOTInputs:
    """The signs that an object is optimized for, and the classifier that reads them."""

    classifier: Classifier
    images: Tensor
    """(N, C, H, W)."""
    labels: Tensor
    """(N,)."""
    surfaces: Tensor
    """(N, 1, H, W), boolean."""
    threat: ThreatModel
    stream: RandomStream
    rows: Tensor
    """Index of each sign's image in the active pass counter, (N,)."""

    def split_by_batch(self, views: int) -> list[EOTInputs]:
        """Split the signs into groups whose views fit into a batch, each at least one sign."""
        size = max(1, self._get_batch_size() // max(views, 1))
        return [self._select_signs(slice(start, start + size)) for start in range(0, len(self.images), size)]

    def render_photographs(self, objects: Tensor, views: Views | None) -> Tensor:
        """Render the signs with an object as the classifier sees them, (N, V, C, H, W).

        Args:
            objects: As for :func:`compose <robustbench_local.threats.physical.scene.compose>`.
            views: None: no camera; V is 1.
        """
        scene_views = build_plain_views(len(objects), device=objects.device) if views is None else views
        scenes = compose_scenes(self.images, objects, self.surfaces, self.threat, scene_views)
        return (
            scenes.view(len(scenes), 1, *scenes.shape[-3:])
            if views is None
            else photograph_scenes(scenes, views)
        )

    def evaluate_photographs(
        self, photographs: Tensor, evaluate: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Apply ``evaluate`` to photographs, labels and rows, batch by batch.

        Args:
            photographs: (N, V, C, H, W).
            evaluate: Takes (B, C, H, W), (B,) and (B,); its result has B as first dimension.
        """
        labels, rows = (values.repeat_interleave(photographs.shape[1]) for values in (self.labels, self.rows))
        flat, size = photographs.flatten(0, 1), self._get_batch_size()
        answers = [
            evaluate(flat[start : start + size], labels[start : start + size], rows[start : start + size])
            for start in range(0, len(flat), size)
        ]
        answered = torch.cat(answers)
        return answered.view(*photographs.shape[:2], *answered.shape[1:])

    def _get_batch_size(self) -> int:
        """Return the number of images per call of the classifier."""
        return self.classifier.limit_batch_size(max(1, PIXEL_VALUES_PER_BATCH // self.images[0].numel()))

    def _select_signs(self, signs: slice) -> EOTInputs:
        """Return a subset of the signs."""
        tensors = {name: getattr(self, name)[signs] for name in ("images", "labels", "surfaces", "rows")}
        places = range(len(self.images))[signs]
        return replace(self, **tensors, stream=self.stream.select_images(list(places)))


def optimize_colours(
    attack: EOTAttack,
    inputs: EOTInputs,
    start: Tensor,
    build_objects: Callable[[Tensor], Tensor],
    penalty: Callable[[Tensor], Tensor],
    *,
    draw_name: str,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Optimize colors.

    Args:
        attack: The hyperparameters.
        inputs: The signs.
        start: Initial colors in [0, 1], (G, C, h, w): one object per sign, G = N, or one for all, G = 1.
        build_objects: From colors to the objects that the attack returns, (N, ...).
        penalty: From colors to their penalty in addition to the loss, (G,).
        draw_name: Name of the random draws.
        steps: Number of steps.

    Returns:
        The best colors and their scores, (G,): the share of held-out views that reach the attacker's goal,
        and a small term for the mean margin.
    """
    device, groups = start.device, len(start)
    step_views, selection_views = (
        sample_views(inputs.stream, count, attack.ranges, draw=name, device=device)
        for count, name in (
            (steps * attack.views, f"{draw_name} steps"),
            (EVALUATION_VIEWS_FACTOR * attack.views, "kept"),
        )
    )
    colours, moments = start, start.new_zeros(2, *start.shape)
    best, scores = start, start.new_full((groups,), -torch.inf)
    for step in range(steps):
        views = (
            step_views.slice_views(step * attack.views, (step + 1) * attack.views) if attack.views else None
        )
        slope = _compute_gradient(attack, inputs, colours, build_objects, penalty, views)
        colours = _apply_adam_step(colours, slope, moments, attack.learning_rate, step, steps)
        if step + 1 in _list_evaluation_steps(steps):
            score = _score_objects(inputs, build_objects(colours), selection_views if attack.views else None)
            score = score if groups > 1 else score.mean(dim=0, keepdim=True)
            better = score > scores
            best = torch.where(better.view(-1, 1, 1, 1), colours, best)
            scores = torch.where(better, score, scores)
    return best, scores


def _list_evaluation_steps(steps: int) -> set[int]:
    """Return the steps after which the current point is compared with the best so far."""
    return {round(steps * (look + 1) / EVALUATION_COUNT) for look in range(EVALUATION_COUNT)} - {0}


def _compute_gradient(
    attack: EOTAttack,
    setting: EOTInputs,
    colours: Tensor,
    finish: Callable[[Tensor], Tensor],
    penalty: Callable[[Tensor], Tensor],
    views: Views | None,
) -> Tensor:
    """Compute the gradient with respect to the colors of the penalty minus the mean loss over the views."""

    def evaluate_batch(shots: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        loss = build_objective(attack.loss, setting.threat, labels)
        return setting.classifier.compute_gradient(shots, loss, rows)[2]

    with torch.enable_grad():
        leaf = colours.detach().requires_grad_()
        shots = setting.render_photographs(finish(leaf), views)
        towards = setting.evaluate_photographs(shots.detach(), evaluate_batch)
        shot_count = shots.shape[1] * len(shots) / len(leaf)  # photographs per object
        total = penalty(leaf).sum() - (towards * shots).sum() / shot_count
        return remove_nonfinite(torch.autograd.grad(total, leaf)[0])


def _score_objects(setting: EOTInputs, objects: Tensor, views: Views | None) -> Tensor:
    """Return the share of views that reach the attacker's goal, plus a small margin term, (N,)."""

    def evaluate_batch(shots: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        return compute_success_margin(setting.classifier(shots, rows), labels, setting.threat)

    with torch.no_grad():
        margins = setting.evaluate_photographs(setting.render_photographs(objects, views), evaluate_batch)
    # non-finite logits are not a prediction, so that the harness does not count them
    margins = margins.masked_fill(margins == torch.inf, -torch.inf)
    return (margins > 0).float().mean(dim=1) + 1e-3 * margins.atan().mean(dim=1)


def _apply_adam_step(
    colours: Tensor, slope: Tensor, moments: Tensor, rate: float, step: int, steps: int
) -> Tensor:
    """Apply one step of Adam to descend the gradient, inside [0, 1]; the moments are updated in place.

    Source: Kingma & Ba 2015, arXiv:1412.6980, algorithm 1; the rate falls as in Loshchilov & Hutter 2017,
    arXiv:1608.03983.
    """
    first, second = _ADAM_BETAS
    moments[0].mul_(first).add_(slope, alpha=1 - first)
    moments[1].mul_(second).addcmul_(slope, slope, value=1 - second)
    mean = moments[0] / (1 - first ** (step + 1))
    size = (moments[1] / (1 - second ** (step + 1))).sqrt()
    falling = rate * (
        LAST_LEARNING_RATE_SHARE + (1 - LAST_LEARNING_RATE_SHARE) * (1 + math.cos(math.pi * step / steps)) / 2
    )
    return (colours - falling * mean / (size + _ADAM_EPSILON)).clamp(0.0, 1.0)
