"""Stickers on a sign: one for all views of it, of the shape and area that the threat model allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_local.attacks.core.objective import check_counts
from robustbench_local.attacks.physical.eot import EOTAttack, EOTInputs, optimize_colours
from robustbench_local.classifier import Classifier
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.physical.printability import compute_non_printability, compute_total_variation
from robustbench_local.threats.physical.relighting import relight_colours, remove_lighting
from robustbench_local.threats.physical.sticker_mask import (
    BAR_LAYOUTS,
    build_sticker_mask,
    build_surface_masks,
)
from robustbench_local.threats.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class Sticker(EOTAttack):
    """Robust physical perturbation: colors that change the prediction in as many views as possible.

    Unless the sticker is a poster, a first pass changes the whole surface under an L1 weight, and the sticker
    goes where the change is largest. Rectangles are also tried in a few fixed layouts, for a few steps each;
    every sign continues with the layout that is misclassified in the most views.

    Args:
        place_steps: Steps of that first pass.
        layout_steps: Steps for each layout of rectangles.
        l1: Weight of the first pass on the mean change of the surface's pixels.

    Raises:
        ConfigError: If a number is out of range or the loss unknown.

    Source: Eykholt et al. 2018, arXiv:1707.08945, section 3.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"sticker"})

    place_steps: int = 100
    layout_steps: int = 25
    l1: float = 100.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts("Sticker", place_steps=self.place_steps, layout_steps=self.layout_steps)
        if not 0 <= self.l1 < float("inf"):
            raise ConfigError(f"Sticker's l1 must be at least 0, got {self.l1}")

    def perturb(
        self,
        classifier: Classifier,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        stream: RandomStream,
        masks: Tensor | None = None,
    ) -> Tensor:
        """Search; see :meth:`Attack.perturb`. Returns the signs with their stickers, without a camera.

        Outside its sticker every sign is unchanged bit for bit.
        """
        if len(images) == 0 or threat.eps == 0:
            return images.clone()
        setting = EOTInputs(
            classifier=classifier,
            images=images,
            labels=labels,
            surfaces=build_surface_masks(images, masks),
            threat=threat,
            stream=stream,
            rows=torch.arange(len(images), device=images.device),
        )
        return torch.cat([self._optimize_stickers(group) for group in setting.split_by_batch(self.views)])

    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Return the passes of all views of all steps, of the selection, and of the position search."""
        if not threat.eps:
            return (0, 0)
        searches = [self.steps] * self.restarts
        if threat.transformation != "poster":
            searches.append(self.place_steps)
        if threat.transformation == "rectangles":
            searches += [self.layout_steps] * (1 + len(BAR_LAYOUTS))
        passes = [self.estimate_search_cost(steps) for steps in searches]
        return sum(forward for forward, _ in passes), sum(backward for _, backward in passes)

    def _optimize_stickers(self, setting: EOTInputs) -> Tensor:
        """Return the best of the restarts for a group of signs."""
        images = setting.images
        mask, start = self._choose_masks(setting)
        best, scores = images, images.new_full((len(images),), -torch.inf)
        for restart in range(self.restarts):
            colours = self._draw_colours(setting, restart) if restart else start
            best_colours, reached = self._optimize_colours(
                setting, mask, colours, f"restart {restart}", self.steps
            )
            best = torch.where((reached > scores).view(-1, 1, 1, 1), best_colours, best)
            scores = torch.maximum(scores, reached)
        relit_colours = relight_colours(best, images, setting.surfaces)
        return torch.where(mask, (relit_colours * 255).round() / 255, images)

    def _choose_masks(self, setting: EOTInputs) -> tuple[Tensor, Tensor]:
        """Return the mask of each sign's sticker, (N, 1, H, W), and the initial colors, (N or 1, C, H, W)."""
        surfaces, threat, start = setting.surfaces, setting.threat, self._draw_colours(setting, 0)
        first = build_sticker_mask(surfaces, threat, pixel_worth=self._compute_pixel_importance(setting))
        if threat.transformation != "rectangles":
            return first, start
        layout_masks = [
            build_sticker_mask(surfaces, threat, layout=layout) for layout in range(len(BAR_LAYOUTS))
        ]
        masks = torch.stack([first, *layout_masks])
        tried = [
            self._optimize_colours(setting, mask, start, f"place {layout_index}", self.layout_steps)
            for layout_index, mask in enumerate(masks)
        ]
        colours, scores = (torch.stack(part) for part in zip(*tried, strict=True))
        best, signs = scores.argmax(dim=0), torch.arange(len(surfaces), device=surfaces.device)
        return masks[best, signs], colours[best, signs]

    def _draw_colours(self, setting: EOTInputs, restart: int) -> Tensor:
        """Draw random initial colors."""
        images = setting.images
        return setting.stream.sample_uniform(
            images.shape[1:], draw=f"colours {restart}", device=images.device
        )

    def _optimize_colours(
        self, setting: EOTInputs, mask: Tensor, start: Tensor, draw: str, steps: int
    ) -> tuple[Tensor, Tensor]:
        """Optimize the colors inside a mask; return the best ones and their scores."""
        images = setting.images

        def apply_sticker(colours: Tensor) -> Tensor:
            return torch.where(mask, relight_colours(colours, images, setting.surfaces), images)

        def compute_print_penalty(colours: Tensor) -> Tensor:
            return self.tv * compute_total_variation(colours, mask) + self.nps * compute_non_printability(
                colours, mask
            )

        return optimize_colours(
            self, setting, start, apply_sticker, compute_print_penalty, draw_name=draw, steps=steps
        )

    def _compute_pixel_importance(self, setting: EOTInputs) -> Tensor | None:
        """Return the change of each pixel under an L1 penalty, (N, 1, H, W); None for a poster."""
        if setting.threat.transformation == "poster":
            return None
        images, surfaces = setting.images, setting.surfaces
        own = remove_lighting(images, images, surfaces)

        def apply_change(
            colours: Tensor,
        ) -> Tensor:  # with its own colors the sign is unchanged, including glare
            return torch.where(
                surfaces,
                images + relight_colours(colours, images, surfaces) - relight_colours(own, images, surfaces),
                images,
            )

        def compute_change_penalty(colours: Tensor) -> Tensor:
            moved = ((colours - own).abs() * surfaces).flatten(1).sum(dim=1)
            return self.l1 * moved / (surfaces.flatten(1).sum(dim=1) * images.shape[1])

        best_colours, _ = optimize_colours(
            self,
            setting,
            own,
            apply_change,
            compute_change_penalty,
            draw_name="place",
            steps=self.place_steps,
        )
        return (best_colours - own).abs().sum(dim=1, keepdim=True)
