"""What the stickers of a cell may be on, as its record says it."""

from __future__ import annotations

from torch import Tensor

from robustbench_local.data.dataset import Dataset
from robustbench_local.store.records import SurfaceRecord
from robustbench_local.threats.physical.sticker_mask import BORDER, allowance, surface
from robustbench_local.threats.threat_model import ThreatModel

NO_MASKS = f"the frame less a border of {100 * BORDER:.0f} %"
"""The surface where the data have no masks."""
UNNAMED_MASKS = "the data's masks"
"""The surface where the data do not say what their masks are."""


def describe_surface(data: Dataset, positions: Tensor, threat: ThreatModel) -> SurfaceRecord | None:
    """The surface of the signs, and how much of it a sticker may cover.

    Args:
        data: The images.
        positions: Those of the cell, int64, (N,).
        threat: What the attacker may do.

    Returns:
        Means over these images; None if the threat is no sticker, or there is no image.
    """
    if threat.norm != "sticker" or not len(positions):
        return None
    if data.masks is None:
        surfaces, what = surface(data.images[:1], None), NO_MASKS
    else:
        surfaces, what = data.masks[positions], data.surface or UNNAMED_MASKS
    height, width = data.images.shape[-2:]
    return SurfaceRecord(
        what=what,
        pixels=float(surfaces.flatten(1).sum(dim=1).double().mean()),
        covered=float(allowance(surfaces, threat.eps).double().mean()),
        image_pixels=height * width,
    )
