"""Adversarial patch: one square for all images, placed beside the sign."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_local.attacks.physical.eot import EOTAttack, EOTInputs, optimize_colours
from robustbench_local.classifier import Classifier
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.physical.printability import compute_non_printability, compute_total_variation
from robustbench_local.threats.physical.scene import compute_patch_side
from robustbench_local.threats.physical.sticker_mask import build_surface_masks
from robustbench_local.threats.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class Patch(EOTAttack):
    """A universal patch: the same colors for all images of a group, at a position that every view draws anew.

    It lies at the border of the frame and behind the sign, so that it never covers the sign.

    Source: Brown et al. 2017, arXiv:1712.09665.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"patch"})
    per_image: ClassVar[bool] = False

    views: int = 4

    def perturb(
        self,
        classifier: Classifier,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        stream: RandomStream,
        masks: Tensor | None = None,
    ) -> Tensor:
        """Search; see :meth:`Attack.perturb`. Returns the patch, (N, C, s, s), the same in every row."""
        side, count, device = compute_patch_side(images, threat), len(images), images.device
        shape = (images.shape[1], side, side)
        if count == 0 or side == 0:
            return images.new_zeros(count, *shape)
        setting = EOTInputs(
            classifier=classifier,
            images=images,
            labels=labels,
            surfaces=build_surface_masks(images, masks),
            threat=threat,
            stream=stream,
            rows=torch.arange(count, device=device),
        )
        everything = torch.ones(1, 1, side, side, dtype=torch.bool, device=device)

        def compute_print_penalty(colours: Tensor) -> Tensor:
            rough, dear = (
                compute_total_variation(colours, everything),
                compute_non_printability(colours, everything),
            )
            return self.tv * rough + self.nps * dear

        own = RandomStream(stream.compute_batch_seed(), ("patch",), stream.attack)
        paths = []
        for restart in range(self.restarts):
            start = own.sample_uniform(shape, draw=f"colours {restart}", device=device)
            paths.append(
                optimize_colours(
                    self,
                    setting,
                    start,
                    lambda colours: colours.expand(count, -1, -1, -1),
                    compute_print_penalty,
                    draw_name=f"restart {restart}",
                    steps=self.steps,
                )
            )
        best, _ = max(paths, key=lambda path: float(path[1]))
        return ((best * 255).round() / 255).expand(count, -1, -1, -1).clone()

    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Return the passes of all views of all steps, and of the evaluations for selection."""
        forward, backward = self.estimate_search_cost(self.steps)
        return (self.restarts * forward, self.restarts * backward) if threat.eps else (0, 0)
