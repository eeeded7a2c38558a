"""The differences that a number of images can show, before any attack is run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from robustbench_local.reports.formatting.text import format_count, format_percent
from robustbench_local.statistics import compute_clopper_pearson

ALPHA = 0.05
"""Error probability of a comparison, as in the report."""


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """What the results on ``images`` images can tell apart."""

    images: int
    """Number of images."""
    half_width: float
    """Half the width of the 95% interval of a share near 50%, where it is widest."""
    max_share_at_zero: float
    """Upper end of the interval of a share when no image counts: smaller shares look like zero."""
    deciding_images: int | None
    """Images that have to be robust on one of two models only, and none on the other only, to be significant
    among all pairs of models; None with a single model, or if there are too few images."""
    models: int
    """Number of compared models."""

    def __str__(self) -> str:
        count = format_count(self.images, "image")
        width = f"{100 * self.half_width:.0f}"
        line = (
            f"{count}: 95% intervals reach up to {width} points to each side; "
            f"0 of {self.images:,} leaves up to {format_percent(self.max_share_at_zero)}"
        )
        if self.models < 2:
            return line
        if self.deciding_images is None:
            return f"{line}; too few to compare {self.models} models"
        return f"{line}; two models differ significantly at {self.deciding_images} images to 0 or more"


def compute_resolution(images: int, models: int) -> Resolution:
    """Compute the resolution of a number of images.

    Args:
        images: Number of images, at least 1.
        models: Number of models that are compared in pairs, adjusted for the number of pairs (Holm).
    """
    middle = compute_clopper_pearson(images // 2, images)
    pairs = models * (models - 1) // 2
    # d images to 0 have the two-sided p-value 2 * 0.5**d, and the smallest of all pairs is multiplied by them
    deciding = math.floor(math.log2(2 * pairs / ALPHA)) + 1 if pairs else None
    return Resolution(
        images=images,
        half_width=(middle.high - middle.low) / 2,
        max_share_at_zero=compute_clopper_pearson(0, images).high,
        deciding_images=deciding if deciding is not None and deciding <= images else None,
        models=models,
    )


def list_resolutions(image_counts: list[int], models: int) -> list[Resolution]:
    """Return the resolution of the smallest and of the largest number of images; of one if they agree."""
    counts = sorted({count for count in image_counts if count})
    return [compute_resolution(count, models) for count in dict.fromkeys([*counts[:1], *counts[-1:]])]
