"""Signs of one colour, a classifier that reads colours, and attackers that paint, for tests of views."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from robustbench_local.attacks.physical.eot import EOTAttack
from robustbench_local.classifier import Classifier
from robustbench_local.data.dataset import Dataset
from robustbench_local.evaluation.harness.batches import run_batches
from robustbench_local.evaluation.harness.job import merge_batches
from robustbench_local.evaluation.harness.sticker_job import StickerJob
from robustbench_local.threats.physical.relighting import relight_colours
from robustbench_local.threats.physical.scene import compute_patch_side
from robustbench_local.threats.physical.sticker_mask import build_sticker_mask, build_surface_masks
from robustbench_local.threats.threat_model import ThreatModel

SIDE_PIXELS, TEST_VIEWS = 16, 20
RED, GREEN, BLUE = range(3)
STICKER = ThreatModel(norm="sticker", eps=0.4, targets=(GREEN,), transformation="rectangles")


class ColourNetwork(nn.Module):
    """Reads an image as its strongest colour, with an eye for green: angle, light and blur hardly matter."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 20 * images.mean(dim=(2, 3)) * torch.tensor([1.0, 1.15, 1.0])


@dataclass(frozen=True, kw_only=True)
class PaintingAttack(EOTAttack):
    """Paints all that it may in one colour; without views in a colour that does not help."""

    norms = frozenset({"sticker", "patch"})

    def perturb(self, classifier, images, labels, threat, stream, masks=None):
        colour = images.new_tensor([0.0, 1.0, 0.0] if self.views else [1.0, 0.0, 0.0]).view(1, 3, 1, 1)
        if threat.norm == "patch":
            side = compute_patch_side(images, threat)
            return colour.expand(len(images), 3, side, side)
        surfaces = build_surface_masks(images, masks)
        painted = relight_colours(colour.expand_as(images), images, surfaces)
        return torch.where(build_sticker_mask(surfaces, threat), painted, images)

    def estimate_cost(self, threat):
        return (0, 0)


@dataclass(frozen=True, kw_only=True)
class OutsidePaintingAttack(PaintingAttack):
    """Paints outside of the sign, too."""

    def perturb(self, classifier, images, labels, threat, stream, masks=None):
        return torch.zeros_like(images)


@dataclass(frozen=True, kw_only=True)
class CheatingControlAttack(PaintingAttack):
    """Keeps the rules itself; its control without views paints outside of the second sign, too."""

    def perturb(self, classifier, images, labels, threat, stream, masks=None):
        found = super().perturb(classifier, images, labels, threat, stream, masks)
        if not self.views:
            found[1:] = 0
        return found


@dataclass(frozen=True, kw_only=True)
class RaisingAttack(PaintingAttack):
    """Raises on the second sign, after a look."""

    def perturb(self, classifier, images, labels, threat, stream, masks=None):
        classifier(images)
        if "made/1" in stream.ids:
            raise ValueError("no colours left")
        return super().perturb(classifier, images, labels, threat, stream, masks)


def make_colour_classifier() -> Classifier:
    return Classifier(ColourNetwork(), num_classes=3, name="colour")


def make_signs(count: int = 2, strength: float = 0.3) -> Dataset:
    """Red squares on grey, each a little darker than the last, with their outlines."""
    images = torch.full((count, 3, SIDE_PIXELS, SIDE_PIXELS), 0.3)
    masks = torch.zeros(count, 1, SIDE_PIXELS, SIDE_PIXELS, dtype=torch.bool)
    masks[:, :, 2:14, 2:14] = True
    for row in range(count):
        images[row, RED, 2:14, 2:14] += strength - 0.02 * row
    return Dataset(
        images=(images * 255).round() / 255,
        labels=torch.zeros(count, dtype=torch.int64),
        ids=tuple(f"made/{row}" for row in range(count)),
        class_names=("red", "green", "blue"),
        name="made",
        masks=masks,
    )


def make_sticker_job(classifier: Classifier, data: Dataset | None = None, **changes) -> StickerJob:
    given = {"data": data or make_signs(), "threat": STICKER, "attack": PaintingAttack(views=4), "seed": 5}
    return StickerJob(key="k" * 64, classifier=classifier, test_views=TEST_VIEWS, **{**given, **changes})


def run_job(viewing: StickerJob, batch_size: int = 512):
    return merge_batches(list(run_batches(viewing, batch_size=batch_size)))


def find_view_predictions(batch, position: int, condition: str, kind: str = "view"):
    (found,) = (
        one
        for one in batch.view_predictions
        if (one.position, one.condition, one.kind) == (position, condition, kind)
    )
    return found
