"""The surface on which a cell may put stickers, in the form of its record."""

from __future__ import annotations

from torch import Tensor

from robustbench_local.data.dataset import Dataset
from robustbench_local.store.records import SurfaceRecord
from robustbench_local.threats.physical.sticker_mask import (
    BORDER_SHARE,
    build_surface_masks,
    count_allowed_pixels,
)
from robustbench_local.threats.threat_model import ThreatModel

UNMASKED_SURFACE = f"the frame less a border of {100 * BORDER_SHARE:.0f}%"
"""The surface where the data have no masks."""
UNNAMED_MASK_SURFACE = "the data's masks"
"""The surface where the data do not say what their masks are."""


def build_surface_record(data: Dataset, positions: Tensor, threat: ThreatModel) -> SurfaceRecord | None:
    """Return the surface area of the signs, and the share that a sticker may cover.

    Args:
        data: The images.
        positions: Those of the cell, int64, (N,).
        threat: The threat model.

    Returns:
        Means over these images; None if the threat model is no sticker, or there is no image.
    """
    if threat.norm != "sticker" or not len(positions):
        return None
    if data.masks is None:
        surfaces, what = build_surface_masks(data.images[:1], None), UNMASKED_SURFACE
    else:
        surfaces, what = data.masks[positions], data.surface or UNNAMED_MASK_SURFACE
    height, width = data.images.shape[-2:]
    return SurfaceRecord(
        what=what,
        pixels=float(surfaces.flatten(1).sum(dim=1).double().mean()),
        covered=float(count_allowed_pixels(surfaces, threat.eps).double().mean()),
        image_pixels=height * width,
    )
