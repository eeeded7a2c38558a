"""Sticker scenes: signs with stickers or controls, and the classifier's prediction in every view."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustbench_local.attacks.physical.eot import EOTAttack
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.stochastic import with_verdict_draws
from robustbench_local.data.dataset import Dataset
from robustbench_local.evaluation.harness.outside_checks import keep_process_unchanged
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.physical.camera import photograph_scenes
from robustbench_local.threats.physical.relighting import relight_colours
from robustbench_local.threats.physical.scene import (
    compose_scenes,
    compute_patch_side,
    find_scene_violations,
    find_sticker_pixels,
)
from robustbench_local.threats.physical.sticker_mask import build_surface_masks
from robustbench_local.threats.physical.views import ViewRange, Views, sample_approach, sample_views
from robustbench_local.threats.threat_model import ThreatModel

APPROACH_FRAMES = 60
"""Number of frames of the drive-by."""
RANDOM_STICKERS = 8
"""Number of stickers of random colors per sign, each for its part of the views."""
_SQUARE_SIDES_PIXELS = (1, 2, 4, 8)
"""Sides of their squares of one color, in pixels of an image 32 pixels wide: from noise to large fields."""
_REFERENCE_SIZE_PIXELS = 32


@dataclass(frozen=True, kw_only=True)
class CraftedStickers:
    """The stickers that an attack made for some signs, after the harness has checked them."""

    candidates: Tensor
    """The signs with their stickers, (N, C, H, W), or patches, (N, C, s, s)."""
    threat: ThreatModel
    """Sticker or patch, its shape and share."""
    rejection_reasons: tuple[str | None, ...]
    """The rule that each breaks; such a sign is predicted without it, because the attack has failed."""


@dataclass(frozen=True, kw_only=True)
class ViewPredictions:
    """The predictions of the views, on the CPU."""

    prediction: Tensor
    """Class of the largest logit, (N, V); -1 where a logit is not finite."""
    confidence: Tensor
    """Its softmax probability, (N, V); NaN where a logit is not finite."""
    rejection_reasons: tuple[str | None, ...]
    """The rule that each sign's sticker breaks: that sign was predicted without it."""

    @classmethod
    def from_parts(cls, parts: Sequence[ViewPredictions]) -> ViewPredictions:
        """Concatenate predictions of the same signs for consecutive parts of the views."""
        return cls(
            prediction=torch.cat([part.prediction for part in parts], dim=1),
            confidence=torch.cat([part.confidence for part in parts], dim=1),
            rejection_reasons=parts[0].rejection_reasons,
        )

    def find_correct_views(self, labels: Tensor) -> Tensor:
        """Mark the views in which each sign is correctly classified, (N, V), boolean."""
        return self.prediction == labels.cpu()[:, None]


@dataclass(frozen=True, kw_only=True)
class StickerScene:
    """Signs, and the views in which they are predicted.

    The views are drawn from the run's seed and the image alone: they are the same for every model, attack and
    condition, and no attack has access to them.
    """

    classifier: Classifier
    """The classifier that predicts the views."""
    images: Tensor
    """(N, C, H, W), on the classifier's device."""
    labels: Tensor
    """(N,)."""
    masks: Tensor | None
    """Their outlines, (N, 1, H, W), where the data have them."""
    stream: RandomStream
    """The signs' random numbers for verdicts."""
    test_views: Views
    """(N, V) independent views."""
    approach_views: Views
    """(N, ``APPROACH_FRAMES``) views of one approach."""

    @classmethod
    def from_data(
        cls, classifier: Classifier, data: Dataset, view_ranges: ViewRange, *, test_views: int, seed: int
    ) -> StickerScene:
        """Set up the scenes of some signs.

        Args:
            classifier: The classifier that predicts the views.
            data: The signs.
            view_ranges: Ranges that views are drawn from.
            test_views: Number of views.
            seed: The run's seed.
        """
        stream, device = RandomStream(seed, data.ids, "test views"), classifier.device
        return cls(
            classifier=classifier,
            images=data.images.to(device),
            labels=data.labels.to(device),
            masks=None if data.masks is None else data.masks.to(device),
            stream=stream,
            test_views=sample_views(stream, test_views, view_ranges, draw="test", device=device),
            approach_views=sample_approach(stream, view_ranges, frames=APPROACH_FRAMES, device=device),
        )

    @property
    def surfaces(self) -> Tensor:
        """(N, 1, H, W), boolean: the area where a sticker may be."""
        return build_surface_masks(self.images, self.masks)

    def craft_stickers(self, attack: EOTAttack, threat: ThreatModel, seed: int) -> CraftedStickers:
        """Run an attack and check its result (trust invariant V13).

        Args:
            attack: The attack.
            threat: The threat model.
            seed: The run's seed; the attack has random numbers of its own.
        """
        own = RandomStream(seed, self.stream.ids, repr(attack))
        masks = None if self.masks is None else self.masks.clone()
        with keep_process_unchanged(attack, self.classifier.add_note):
            candidates = attack.perturb(
                self.classifier, self.images.clone(), self.labels.clone(), threat, own, masks
            )
        reasons = find_scene_violations(candidates, self.images, self.surfaces, threat)
        if all(reasons):  # an invalid result may have any shape
            candidates = self._build_blank_candidates(threat)
        return CraftedStickers(
            candidates=candidates.detach(), threat=threat, rejection_reasons=tuple(reasons)
        )

    def predict_views(self, crafted: CraftedStickers | None, views: Views) -> ViewPredictions:
        """Photograph every sign in every view and predict the photographs.

        Args:
            crafted: The stickers on the signs; None: the clean signs.
            views: (N, V).
        """
        count = len(self.images)
        at_once = max(1, self.classifier.limit_batch_size(views.count) // count)
        return ViewPredictions.from_parts(
            [
                self._predict_batch(crafted, views.slice_views(start, min(start + at_once, views.count)))
                for start in range(0, views.count, at_once)
            ]
        )

    def predict_random_stickers(self, crafted: CraftedStickers) -> ViewPredictions:
        """Predict random colors in the sticker's place, a new sticker for each part of the test views."""
        edges = [self.test_views.count * part // RANDOM_STICKERS for part in range(RANDOM_STICKERS + 1)]
        return ViewPredictions.from_parts(
            [
                self.predict_views(
                    self._recolour_stickers(crafted, part),
                    self.test_views.slice_views(edges[part], edges[part + 1]),
                )
                for part in range(RANDOM_STICKERS)
                if edges[part] < edges[part + 1]
            ]
        )

    def compose_flat(self, crafted: CraftedStickers) -> Tensor:
        """Return the signs with their stickers, without a camera, (N, C, H, W); a patch as in view 0."""
        scenes = self._compose_scenes(crafted, self.test_views.slice_views(0, 1))
        return scenes if scenes.dim() == 4 else scenes[:, 0]

    def photograph_views(self, crafted: CraftedStickers, views: Views) -> npt.NDArray[np.uint8]:
        """Return photographs with the rounding of image files, (N, V, C, H, W)."""
        with torch.no_grad():
            pictures = photograph_scenes(self._compose_scenes(crafted, views), views)
        photographs: npt.NDArray[np.uint8] = (pictures * 255).round().byte().cpu().numpy()
        return photographs

    def _predict_batch(self, crafted: CraftedStickers | None, views: Views) -> ViewPredictions:
        rows = torch.arange(len(self.images), device=self.images.device).repeat_interleave(views.count)
        with torch.no_grad(), with_verdict_draws(self.classifier, self.stream):
            photographs = photograph_scenes(self._compose_scenes(crafted, views), views).flatten(0, 1)
            logits = self.classifier(photographs, rows).cpu().double()
        finite = torch.isfinite(logits).all(dim=1)
        likely, classes = logits.masked_fill(~finite[:, None], 0.0).softmax(dim=1).max(dim=1)
        return ViewPredictions(
            prediction=torch.where(finite, classes, -1).view(-1, views.count),
            confidence=likely.masked_fill(~finite, torch.nan).view(-1, views.count),
            rejection_reasons=(None,) * len(self.images) if crafted is None else crafted.rejection_reasons,
        )

    def _compose_scenes(self, crafted: CraftedStickers | None, views: Views) -> Tensor:
        """Return the scenes before the camera; a sign whose sticker breaks a rule stays clean."""
        if crafted is None:
            return self.images
        scenes = compose_scenes(self.images, crafted.candidates, self.surfaces, crafted.threat, views)
        legal = torch.tensor([reason is None for reason in crafted.rejection_reasons], device=scenes.device)
        clean = self.images if scenes.dim() == 4 else self.images[:, None]
        return torch.where(legal.view(-1, *[1] * (scenes.dim() - 1)), scenes, clean)

    def _recolour_stickers(self, crafted: CraftedStickers, part: int) -> CraftedStickers:
        """Replace the sticker or the patch with random colors."""
        height, width = crafted.candidates.shape[-2:]
        grain = max(
            1,
            round(
                _SQUARE_SIDES_PIXELS[part % len(_SQUARE_SIDES_PIXELS)]
                * self.images.shape[-1]
                / _REFERENCE_SIZE_PIXELS
            ),
        )
        cells = (self.images.shape[1], math.ceil(height / grain), math.ceil(width / grain))
        fields = self.stream.sample_uniform(cells, draw=f"random colours {part}", device=self.images.device)
        colours = fields.repeat_interleave(grain, dim=2).repeat_interleave(grain, dim=3)
        colours = colours[..., :height, :width]
        if crafted.threat.norm == "sticker":
            worn = find_sticker_pixels(crafted.candidates, self.images, self.surfaces, crafted.threat)
            colours = torch.where(worn, relight_colours(colours, self.images, self.surfaces), self.images)
        return replace(crafted, candidates=colours)

    def _build_blank_candidates(self, threat: ThreatModel) -> Tensor:
        """Return zero candidates of the right shape."""
        if threat.norm == "sticker":
            return self.images
        side = compute_patch_side(self.images, threat)
        return self.images.new_zeros(*self.images.shape[:2], side, side)
