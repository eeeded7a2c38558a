"""The differences that a number of images can show, before any attack is run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from robustbench_local.reports.formatting.text import format_count
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
        line = (
            f"{count}: 95% intervals reach up to {format_width(self.half_width)} to each side; "
            f"0 of {self.images:,} leaves up to {100 * self.max_share_at_zero:.2g}%"
        )
        if self.models < 2:
            return line
        if self.deciding_images is None:
            return f"{line}; too few to compare {self.models} models"
        return (
            f"{line}; two models differ significantly at "
            f"{format_count(self.deciding_images, 'image')} to 0 or more"
        )


def compute_resolution(images: int, models: int) -> Resolution:
    """Compute the resolution of a number of images.

    Args:
        images: Number of images, at least 1.
        models: Number of models that are compared in pairs, adjusted for the number of pairs (Holm).
    """
    pairs = models * (models - 1) // 2
    # d images to 0 have the two-sided p-value 2 * 0.5**d, and the smallest of all pairs is multiplied by them
    deciding = math.floor(math.log2(2 * pairs / ALPHA)) + 1 if pairs else None
    return Resolution(
        images=images,
        half_width=_compute_half_width(images),
        max_share_at_zero=compute_clopper_pearson(0, images).high,
        deciding_images=deciding if deciding is not None and deciding <= images else None,
        models=models,
    )


def list_resolutions(image_counts: list[int], models: int) -> list[Resolution]:
    """Return the resolution of the smallest and of the largest number of images; of one if they agree."""
    counts = sorted({count for count in image_counts if count})
    return [compute_resolution(count, models) for count in dict.fromkeys([*counts[:1], *counts[-1:]])]


@dataclass(frozen=True, kw_only=True)
class ClassResolution:
    """What the results on the images of single classes can tell."""

    classes: int
    """Number of classes with an image."""
    fewest_images: int
    """Images of the smallest class."""
    most_images: int
    """Images of the largest class."""
    half_width: float
    """Half the width of the 95% interval of the smallest class's share near 50%."""

    def __str__(self) -> str:
        sizes = format_count(self.most_images, "image")
        each = sizes if self.fewest_images == self.most_images else f"{self.fewest_images:,} to {sizes}"
        return (
            f"{format_count(self.classes, 'class')} of {each}: the interval of one class reaches up to "
            f"{format_width(self.half_width)} to each side"
        )


@dataclass(frozen=True, kw_only=True)
class GroupResolution:
    """What the results on images in groups can tell, between the two extremes of likeness."""

    images: int
    """Number of images."""
    groups: int
    """Number of groups."""
    half_width_independent: float
    """Half the width of the 95% interval of a share near 50% if images of a group are independent."""
    half_width_alike: float
    """The same if all images of a group have the same verdict, so that each group counts once."""
    deciding_groups: int | None
    """Groups that have to speak for one of two models, and none for the other, to be significant among all
    pairs of models; None with a single model, or if there are too few groups."""
    models: int
    """Number of compared models."""

    def __str__(self) -> str:
        widths = (self.half_width_independent, self.half_width_alike)
        low, high = map(format_width, widths)
        line = (
            f"{format_count(self.images, 'image')} in {format_count(self.groups, 'group')}: 95% intervals "
            f"are over groups and reach up to {low} to each side if images of a group are "
            f"independent, {high} if they are alike"
        )
        if self.models < 2:
            return line
        if self.deciding_groups is None:
            return f"{line}; too few groups to compare {self.models} models"
        deciding = format_count(self.deciding_groups, "group")
        return f"{line}; two models differ significantly at {deciding} to 0 or more"


def compute_class_resolution(images_per_class: Sequence[int]) -> ClassResolution | None:
    """Compute the resolution of single classes; None with fewer than two classes.

    Args:
        images_per_class: Number of images of each class.
    """
    counts = [count for count in images_per_class if count]
    if len(counts) < 2:
        return None
    fewest = min(counts)
    return ClassResolution(
        classes=len(counts),
        fewest_images=fewest,
        most_images=max(counts),
        half_width=_compute_half_width(fewest),
    )


def compute_group_resolution(images: int, groups: int, models: int) -> GroupResolution:
    """Compute the resolution of a number of images in a number of groups, for a number of models."""
    return GroupResolution(
        images=images,
        groups=groups,
        half_width_independent=_compute_half_width(images),
        half_width_alike=_compute_half_width(groups),
        deciding_groups=compute_resolution(groups, models).deciding_images,
        models=models,
    )


def format_width(half_width: float) -> str:
    """Format half the width of an interval as ``14 points`` or ``0.4 points``; never as 0."""
    points = 100 * half_width
    return f"{points:.0f} points" if points >= 9.95 else f"{max(points, 0.1):.1f} points"


def _compute_half_width(images: int) -> float:
    """Compute half the width of the interval of a share near 50%."""
    middle = compute_clopper_pearson(images // 2, images)
    return (middle.high - middle.low) / 2
