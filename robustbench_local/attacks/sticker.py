"""Stickers on a sign: one for all views of it, of the shape and area that the threat model allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_local.attacks.expectation import ExpectationAttack, Setting, climb
from robustbench_local.classifier import Classifier
from robustbench_local.errors import ConfigError
from robustbench_local.physical.light import lit, unlit
from robustbench_local.physical.mask import sticker_mask, surface
from robustbench_local.physical.printing import non_printability, total_variation
from robustbench_local.randomness import Stream
from robustbench_local.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class Sticker(ExpectationAttack):
    """Robust physical perturbation: colours that turn the reading from wherever the sign is seen.

    For a square and for pixels that are to be found, a first pass changes the whole surface under an L1
    weight, and the sticker goes where most of that is.

    Args:
        place_steps: Steps of that first pass.
        l1: Its weight on the mean change of the surface's pixels.

    Raises:
        ConfigError: If a number is out of range or the loss unknown.

    Source: Eykholt et al. 2018, arXiv:1707.08945, section 3.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"sticker"})

    place_steps: int = 100
    l1: float = 100.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.place_steps < 1 or not 0 <= self.l1 < float("inf"):
            raise ConfigError(f"a sticker needs place_steps and l1, got {self.place_steps} and {self.l1}")

    def perturb(
        self,
        classifier: Classifier,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        stream: Stream,
        masks: Tensor | None = None,
    ) -> Tensor:
        """Search; see :meth:`Attack.perturb`. Returns the signs with their stickers, without a camera.

        Outside its sticker every sign keeps its bits.
        """
        if len(images) == 0 or threat.eps == 0:
            return images.clone()
        setting = Setting(
            classifier=classifier,
            images=images,
            labels=labels,
            surfaces=surface(images, masks),
            threat=threat,
            stream=stream,
            rows=torch.arange(len(images), device=images.device),
        )
        return torch.cat([self._stuck(group) for group in setting.groups(self.views)])

    def cost(self, threat: ThreatModel) -> tuple[int, int]:
        """All views of all steps, the looks that decide what is kept, and the pass that finds the place."""
        if not threat.eps:
            return (0, 0)
        forward, backward = (self.restarts * passes for passes in self.passes(self.steps))
        if threat.transformation in {"square", "found"}:
            first = self.passes(self.place_steps)
            return forward + first[0], backward + first[1]
        return forward, backward

    def _stuck(self, setting: Setting) -> Tensor:
        """The best of the restarts for a group of signs."""
        images = setting.images
        mask = sticker_mask(setting.surfaces, setting.threat, wanted=self._wanted(setting))

        def stuck(colours: Tensor) -> Tensor:
            return torch.where(mask, lit(colours, images, setting.surfaces), images)

        def print_cost(colours: Tensor) -> Tensor:
            return self.tv * total_variation(colours, mask) + self.nps * non_printability(colours, mask)

        best, scores = images, images.new_full((len(images),), -torch.inf)
        for restart in range(self.restarts):
            start = setting.stream.uniform(images.shape[1:], draw=f"colours {restart}", device=images.device)
            found, reached = climb(
                self, setting, start, stuck, print_cost, draw=f"restart {restart}", steps=self.steps
            )
            best = torch.where((reached > scores).view(-1, 1, 1, 1), found, best)
            scores = torch.maximum(scores, reached)
        return torch.where(mask, (stuck(best) * 255).round() / 255, images)

    def _wanted(self, setting: Setting) -> Tensor | None:
        """How much each pixel changes when that is dear, (N, 1, H, W); None where the shape is fixed."""
        if setting.threat.transformation not in {"square", "found"}:
            return None
        images, surfaces = setting.images, setting.surfaces
        own = unlit(images, images, surfaces)

        def changed(colours: Tensor) -> Tensor:  # at its own colours the sign is as it is, glare and all
            return torch.where(
                surfaces, images + lit(colours, images, surfaces) - lit(own, images, surfaces), images
            )

        def size(colours: Tensor) -> Tensor:
            moved = ((colours - own).abs() * surfaces).flatten(1).sum(dim=1)
            return self.l1 * moved / (surfaces.flatten(1).sum(dim=1) * images.shape[1])

        found, _ = climb(self, setting, own, changed, size, draw="place", steps=self.place_steps)
        return (found - own).abs().sum(dim=1, keepdim=True)
