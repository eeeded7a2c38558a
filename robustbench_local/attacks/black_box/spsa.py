"""SPSA: PGD on a gradient estimated from the scores at random points on either side of the image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.engine_attack import EngineAttack
from robustbench_local.attacks.core.objective import build_objective
from robustbench_local.attacks.core.search import PointEvaluation, Search
from robustbench_local.attacks.core.work_items import ActiveSet, TensorTable
from robustbench_local.classifier import Access, Classifier
from robustbench_local.counted_nouns import choose_form, format_count
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import RandomStream, sample_uniform_at
from robustbench_local.threats.lp_ball import project_to_box, reshape_for_broadcast
from robustbench_local.threats.threat_model import ThreatModel

_ADAM_BETA_1, _ADAM_BETA_2 = 0.9, 0.999
"""Decay of the running means of the gradient and of its square (Adam's betas)."""
_ADAM_EPSILON = 1e-8
_SIGNS_PER_NUMBER = 24
"""Random signs per random number."""


@dataclass(frozen=True, kw_only=True)
class SPSA(EngineAttack):
    """Simultaneous perturbation stochastic approximation: Adam on a gradient estimated from scores alone.

    Each step evaluates the margin on both sides of the image, along directions of random signs. The
    differences, each times its direction, average to the gradient. The search for an image ends with its
    first confirmed success.

    Args:
        steps: Steps per image, at least 1.
        samples: Points evaluated per step, even: half of them directions, half their mirror images.
        delta: Distance of the samples from the image in each pixel, in pixel units of [0, 1]. Samples are
            clipped to [0, 1], so that the model sees valid images only.
        step_size: Adam's learning rate, in pixel units of [0, 1].

    Raises:
        ConfigError: If a number is out of range.

    Source: Uesato et al. 2018, arXiv:1802.05666, algorithm 1, with its hyperparameters and its Adam (Kingma &
    Ba 2015, arXiv:1412.6980).
    """

    access: ClassVar[Access] = "scores"

    steps: int = 100
    samples: int = 2048
    delta: float = 0.01
    step_size: float = 0.01

    def __post_init__(self) -> None:
        if self.steps < 1 or self.samples < 2 or self.samples % 2:
            raise ConfigError(
                f"SPSA needs at least 1 step and an even number of samples, "
                f"got {self.steps} and {self.samples}"
            )
        if not (0 < self.delta < 1 and 0 < self.step_size < 1):
            raise ConfigError(
                f"SPSA's delta and step_size must lie between 0 and 1, got {self.delta} and {self.step_size}"
            )

    @property
    def queries(self) -> int:
        """All samples of all steps, one evaluation before each step, and one of the last point."""
        return self.steps * (self.samples + 1) + 1

    def run_searches(self, engine: Engine, threat: ThreatModel) -> None:
        """Run one path of every image."""
        search = SPSASearch(
            attack=self, threat=threat, classifier=engine.classifier, batch_size=engine.batch_size
        )
        engine.run(search, engine.build_items())

    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Return its queries, and no backward pass."""
        return (self.queries, 0) if threat.eps else (0, 0)

    def list_warnings(self, threat: ThreatModel) -> list[str]:
        """Warn of steps that together do not cross half the ball."""
        reach = self.steps * self.step_size
        if threat.norm != "Linf" or 2 * reach >= threat.eps:
            return []
        steps = f"{format_count(self.steps, 'step')} of {self.step_size:.4g}"
        return [
            f"SPSA's {steps} {choose_form(self.steps, 'does', 'do')} not go half the way to {threat.eps:.4g}"
        ]


@dataclass(kw_only=True)
class SPSAState(TensorTable):
    """The state of Adam, one row per item."""

    stream_keys: Tensor
    """(W,): seed of each item's stream of directions."""
    gradient_mean: Tensor
    """(W, C, H, W): running mean of the gradient."""
    squared_gradient_mean: Tensor
    """(W, C, H, W): running mean of its square."""


class SPSASearch(Search[SPSAState]):
    """SPSA on the engine.

    Args:
        attack: The hyperparameters.
        threat: Budget, goal and region.
        classifier: Evaluates the samples, in addition to the points that the engine evaluates.
        batch_size: Samples per forward pass.
    """

    def __init__(self, *, attack: SPSA, threat: ThreatModel, classifier: Classifier, batch_size: int) -> None:
        self.attack, self.threat, self.steps, self.name = attack, threat, attack.steps, "spsa"
        self._classifier, self._batch_size = classifier, batch_size

    def start_items(self, front: ActiveSet, stream: RandomStream, draws: list[str]) -> SPSAState:
        """Start at the images themselves."""
        nothing = torch.zeros_like(front.points)
        keys = stream.compute_keys([f"{draw}/signs" for draw in draws], front.points.device)
        return SPSAState(stream_keys=keys, gradient_mean=nothing, squared_gradient_mean=nothing)

    def step(self, front: ActiveSet, state: SPSAState, evaluation: PointEvaluation) -> Tensor:  # noqa: ARG002 - only forward passes
        """Take a step of Adam along the estimate, projected into the ball."""
        gradient = self._estimate_gradient(front, state)
        state.gradient_mean = torch.lerp(gradient, state.gradient_mean, _ADAM_BETA_1)
        state.squared_gradient_mean = torch.lerp(
            gradient * gradient, state.squared_gradient_mean, _ADAM_BETA_2
        )
        step_count = reshape_for_broadcast(front.age.to(gradient.device) + 1, gradient)
        mean = state.gradient_mean / (1 - _ADAM_BETA_1**step_count)
        spread = (state.squared_gradient_mean / (1 - _ADAM_BETA_2**step_count)).sqrt_().add_(_ADAM_EPSILON)
        moved = front.points + self.attack.step_size * mean / spread
        return project_to_box(moved, front.originals, self.get_ball(front))

    def _estimate_gradient(self, front: ActiveSet, state: SPSAState) -> Tensor:
        """Estimate the gradient of the margin, (W, C, H, W), from samples on both sides of each point."""
        total = torch.zeros_like(front.points)
        directions = self.attack.samples // 2
        at_once = max(1, self._batch_size // (2 * len(front)))
        for first in range(0, directions, at_once):
            count = min(at_once, directions - first)
            signs = self._draw_signs(front, state, first, count)
            sides = [
                self._compute_margins(front, (front.points[:, None] + shift * signs).clamp_(0.0, 1.0))
                for shift in (self.attack.delta, -self.attack.delta)
            ]
            # a sample with non-finite logits carries no information about the gradient
            rise = torch.nan_to_num(sides[0] - sides[1], nan=0.0, posinf=0.0, neginf=0.0)
            total += torch.einsum("wd,wdchi->wchi", rise, signs)
        return total / (2 * self.attack.delta * directions)

    def _compute_margins(self, front: ActiveSet, samples: Tensor) -> Tensor:
        """Compute the margin of every sample, (W, D), of (W, D, C, H, W)."""
        count = samples.shape[1]
        rows, labels = (values.repeat_interleave(count) for values in (front.rows, front.labels))
        pieces = (torch.split(values, self._batch_size) for values in (samples.flatten(0, 1), rows))
        logits = torch.cat(
            [self._classifier(points, point_rows) for points, point_rows in zip(*pieces, strict=True)]
        )
        return build_objective("margin", self.threat, labels)(logits).view(-1, count)

    def _draw_signs(self, front: ActiveSet, state: SPSAState, first: int, count: int) -> Tensor:
        """Draw the directions of each item's step, -1 or 1, (W, D, C, H, W): ``count`` from ``first`` on."""
        shape, device = front.points.shape[1:], state.stream_keys.device
        words = math.ceil(shape.numel() / _SIGNS_PER_NUMBER)
        start = (front.age * (self.attack.samples // 2) + first).to(device) * words
        places = start[:, None] + torch.arange(count * words, device=device)
        bits = (sample_uniform_at(state.stream_keys[:, None], places) * 2**_SIGNS_PER_NUMBER).int()
        signs = (bits[:, :, None] >> torch.arange(_SIGNS_PER_NUMBER, dtype=torch.int32, device=device)) & 1
        flat = signs.view(len(places), count, words * _SIGNS_PER_NUMBER)[..., : shape.numel()]
        directions: Tensor = (flat * 2 - 1).to(front.points.dtype).view(len(places), count, *shape)
        return directions
