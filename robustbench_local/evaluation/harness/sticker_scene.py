"""Signs before the camera: what is put on them, and what the classifier reads in every view."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustbench_local.attacks.physical.eot import ExpectationAttack
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.stochastic import deciding
from robustbench_local.data.dataset import Dataset
from robustbench_local.randomness import Stream
from robustbench_local.threats.physical.camera import photograph
from robustbench_local.threats.physical.relighting import lit
from robustbench_local.threats.physical.scene import compose, patch_side, scene_violations, worn_mask
from robustbench_local.threats.physical.sticker_mask import surface
from robustbench_local.threats.physical.views import ViewRange, Views, approach, draw_views
from robustbench_local.threats.threat_model import ThreatModel

FRAMES = 60
"""Frames of the drive-by."""
STICKERS_AT_RANDOM = 8
"""Stickers of random colours that a sign gets, each for its part of the views."""
_GRAINS = (1, 2, 4, 8)
"""Sides of their squares of one colour, in pixels of an image 32 pixels wide: from noise to large fields."""
_REFERENCE_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class Crafted:
    """What an attack made for some signs, after the harness has looked at it."""

    found: Tensor
    """The signs with their stickers, (N, C, H, W), or patches, (N, C, s, s)."""
    threat: ThreatModel
    """Sticker or patch, its shape and share."""
    reasons: tuple[str | None, ...]
    """Which rule each breaks; such a sign is looked at as it is: the attack has failed on it."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was read, on the CPU."""

    prediction: Tensor
    """Class of the largest logit, (N, V); -1 where a logit is not finite."""
    confidence: Tensor
    """Its softmax probability, (N, V); NaN where a logit is not finite."""
    reasons: tuple[str | None, ...]
    """Which rule each sign's sticker breaks: that sign was looked at as it is, and shows nothing of it."""

    @classmethod
    def joined(cls, parts: Sequence[Seen]) -> Seen:
        """What was read of the same signs in one part of the views after the other."""
        return cls(
            prediction=torch.cat([part.prediction for part in parts], dim=1),
            confidence=torch.cat([part.confidence for part in parts], dim=1),
            reasons=parts[0].reasons,
        )

    def right(self, labels: Tensor) -> Tensor:
        """In which views each sign is read as its label, (N, V), boolean."""
        return self.prediction == labels.cpu()[:, None]


@dataclass(frozen=True, kw_only=True)
class Signs:
    """Some signs, and the views that they are judged over.

    The views are drawn from the run's seed and the image alone: they are the same for every model, attack
    and condition, and no attack has seen them.
    """

    classifier: Classifier
    """Who reads them."""
    images: Tensor
    """(N, C, H, W), on the classifier's device."""
    labels: Tensor
    """(N,)."""
    masks: Tensor | None
    """Their outlines, (N, 1, H, W), where the data have them."""
    stream: Stream
    """The signs' random numbers, for judging them."""
    tests: Views
    """(N, V) independent views."""
    drive: Views
    """(N, ``FRAMES``) views of one approach."""

    @classmethod
    def before(
        cls, classifier: Classifier, data: Dataset, ranges: ViewRange, *, test_views: int, seed: int
    ) -> Signs:
        """Bring signs before the camera.

        Args:
            classifier: Who reads them.
            data: The signs.
            ranges: What views are drawn from.
            test_views: How many of them.
            seed: The run's seed.
        """
        stream, device = Stream(seed, data.ids, "test views"), classifier.device
        return cls(
            classifier=classifier,
            images=data.images.to(device),
            labels=data.labels.to(device),
            masks=None if data.masks is None else data.masks.to(device),
            stream=stream,
            tests=draw_views(stream, test_views, ranges, draw="test", device=device),
            drive=approach(stream, ranges, frames=FRAMES, device=device),
        )

    @property
    def surfaces(self) -> Tensor:
        """(N, 1, H, W), boolean: where a sticker may be."""
        return surface(self.images, self.masks)

    def craft(self, attack: ExpectationAttack, threat: ThreatModel, seed: int) -> Crafted:
        """Let an attack work, and check what it hands in (trust invariant V13).

        Args:
            attack: The attack.
            threat: What it may do.
            seed: The run's seed; the attack's random numbers are its own.
        """
        own = Stream(seed, self.stream.ids, repr(attack))
        found = attack.perturb(
            self.classifier, self.images.clone(), self.labels.clone(), threat, own, self.masks
        )
        reasons = scene_violations(found, self.images, self.surfaces, threat)
        if all(reasons):  # it may have any shape
            found = self._blank(threat)
        return Crafted(found=found.detach(), threat=threat, reasons=tuple(reasons))

    def look(self, crafted: Crafted | None, views: Views) -> Seen:
        """Photograph every sign in every view and read the photographs.

        Args:
            crafted: What is put on them; None: the clean signs.
            views: (N, V).
        """
        count = len(self.images)
        at_once = max(1, (self.classifier.batch_size or views.count) // count)
        return Seen.joined(
            [
                self._read(crafted, views.part(start, min(start + at_once, views.count)))
                for start in range(0, views.count, at_once)
            ]
        )

    def look_at_random(self, crafted: Crafted) -> Seen:
        """The same with random colours in the same place, a new sticker for each part of the test views."""
        edges = [self.tests.count * part // STICKERS_AT_RANDOM for part in range(STICKERS_AT_RANDOM + 1)]
        return Seen.joined(
            [
                self.look(self._coloured(crafted, part), self.tests.part(edges[part], edges[part + 1]))
                for part in range(STICKERS_AT_RANDOM)
                if edges[part] < edges[part + 1]
            ]
        )

    def flat(self, crafted: Crafted) -> Tensor:
        """What was put on the signs, without a camera, (N, C, H, W); a patch as in the first view."""
        scenes = self._scenes(crafted, self.tests.part(0, 1))
        return scenes if scenes.dim() == 4 else scenes[:, 0]

    def film(self, crafted: Crafted, views: Views) -> npt.NDArray[np.uint8]:
        """Photographs as files hold them, (N, V, C, H, W)."""
        with torch.no_grad():
            pictures = photograph(self._scenes(crafted, views), views)
        found: npt.NDArray[np.uint8] = (pictures * 255).round().byte().cpu().numpy()
        return found

    def _read(self, crafted: Crafted | None, views: Views) -> Seen:
        rows = torch.arange(len(self.images), device=self.images.device).repeat_interleave(views.count)
        with torch.no_grad(), deciding(self.classifier, self.stream):
            seen = photograph(self._scenes(crafted, views), views).flatten(0, 1)
            logits = self.classifier(seen, rows).double().cpu()
        finite = torch.isfinite(logits).all(dim=1)
        likely, classes = logits.masked_fill(~finite[:, None], 0.0).softmax(dim=1).max(dim=1)
        return Seen(
            prediction=torch.where(finite, classes, -1).view(-1, views.count),
            confidence=likely.masked_fill(~finite, torch.nan).view(-1, views.count),
            reasons=(None,) * len(self.images) if crafted is None else crafted.reasons,
        )

    def _scenes(self, crafted: Crafted | None, views: Views) -> Tensor:
        """What stands before the camera; a sign whose sticker breaks a rule stands there as it is."""
        if crafted is None:
            return self.images
        scenes = compose(self.images, crafted.found, self.surfaces, crafted.threat, views)
        legal = torch.tensor([reason is None for reason in crafted.reasons], device=scenes.device)
        clean = self.images if scenes.dim() == 4 else self.images[:, None]
        return torch.where(legal.view(-1, *[1] * (scenes.dim() - 1)), scenes, clean)

    def _coloured(self, crafted: Crafted, part: int) -> Crafted:
        """Random colours where the sticker or the patch is."""
        height, width = crafted.found.shape[-2:]
        grain = max(1, round(_GRAINS[part % len(_GRAINS)] * self.images.shape[-1] / _REFERENCE_SIZE))
        cells = (self.images.shape[1], math.ceil(height / grain), math.ceil(width / grain))
        fields = self.stream.uniform(cells, draw=f"random colours {part}", device=self.images.device)
        colours = fields.repeat_interleave(grain, dim=2).repeat_interleave(grain, dim=3)
        colours = colours[..., :height, :width]
        if crafted.threat.norm == "sticker":
            worn = worn_mask(crafted.found, self.images, self.surfaces, crafted.threat)
            colours = torch.where(worn, lit(colours, self.images, self.surfaces), self.images)
        return replace(crafted, found=colours)

    def _blank(self, threat: ThreatModel) -> Tensor:
        """Something of the right shape."""
        if threat.norm == "sticker":
            return self.images
        side = patch_side(self.images, threat)
        return self.images.new_zeros(*self.images.shape[:2], side, side)
