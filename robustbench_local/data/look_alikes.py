"""Signs that images come in groups although none are declared: their names, and near duplicates."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from robustbench_local.counted_nouns import format_count
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.stored_images import BATCH_IMAGES

_NAME_PATTERN = re.compile(r"([^/]*\d[^/]*?)[_-][A-Za-z]*\d+(?:\.\w+)?$")
"""A file name of an object with a number and a frame with a number: ``00012_00003.ppm``."""
MIN_PREFIXES_PER_CLASS = 1.5
"""Different beginnings of names for each class; with fewer the beginning names the class."""
MAX_PREFIX_SHARE = 0.6
"""Different beginnings of names, as a share of the images; with more they name the images."""
MIN_LIKENESS = 0.995
"""Correlation of two thumbnails from which on the images are near duplicates."""
MIN_DUPLICATE_SHARE = 0.1
"""Share of images with a near duplicate from which on they look grouped; in the test sets of CIFAR-10, MNIST
and GTSRB it is 0 to 2%."""
MIN_COMPARED_IMAGES = 20
"""Images from which on their likeness is judged."""
_THUMBNAIL_PIXELS = 8
_MAX_COMPARED_IMAGES = 2000
UNDECLARED_HINT = "so that the intervals may be too short: declare groups, or groups: none"
"""End of the notes about undeclared groups."""


def describe_look_alikes(data: Dataset) -> str:
    """Describe why the images look as if several showed one object; empty if they do not."""
    prefixes = _find_name_prefixes(data)
    if prefixes:
        return (
            f"the names look like {format_count(len(data), 'image')} of {format_count(prefixes, 'object')} "
            f"(such as {data.ids[0]}), {UNDECLARED_HINT}"
        )
    count, compared = _count_near_duplicates(data)
    if compared < MIN_COMPARED_IMAGES or count < MIN_DUPLICATE_SHARE * compared:
        return ""
    return f"{count:,} of {format_count(compared, 'image')} nearly repeat another one, {UNDECLARED_HINT}"


def standardize_rows(values: Tensor) -> Tensor:
    """Center the last axis and scale it to length 1: products of two rows are their correlation."""
    centered = values - values.mean(dim=-1, keepdim=True)
    lengths: Tensor = centered.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    return centered / lengths


def _find_name_prefixes(data: Dataset) -> int:
    """Return the number of objects that the names tell apart within the classes; 0 if they tell none."""
    return len(set(find_objects_by_name(data.ids, [str(label) for label in data.labels.tolist()])))


def find_objects_by_name(ids: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Return the object that each image shows, by the names of files; empty if they tell none.

    Args:
        ids: Ids of images, such as ``14/00012_00003.ppm``: frame 3 of the object 12.
        labels: Names of their classes; objects of two classes may share a number.
    """
    found = [_NAME_PATTERN.search(image) for image in ids]
    objects = [f"{label}/{match.group(1)}" for label, match in zip(labels, found, strict=True) if match]
    if len(objects) < len(ids):
        return []
    count = len(set(objects))
    few = count < MIN_PREFIXES_PER_CLASS * len(set(labels))
    return [] if few or count > MAX_PREFIX_SHARE * len(ids) else objects


def _count_near_duplicates(data: Dataset) -> tuple[int, int]:
    """Count images of which another one of the same class is a near duplicate, among the first ones."""
    labels = data.labels[:_MAX_COMPARED_IMAGES]
    starts = range(0, len(labels), BATCH_IMAGES)  # large images may be on the disk
    parts = (data.images[start : min(start + BATCH_IMAGES, len(labels))] for start in starts)
    unit = standardize_rows(torch.cat([_make_thumbnails(part) for part in parts]))
    count = 0
    for label, size in Counter(labels.tolist()).items():
        if size > 1:
            members = unit[labels == label]
            likeness = members @ members.T
            likeness.fill_diagonal_(-1)
            count += int((likeness.max(dim=1).values > MIN_LIKENESS).sum())
    return count, len(labels)


def _make_thumbnails(images: Tensor) -> Tensor:
    """Return small gray images, (N, pixels), float64, of images (N, C, H, W)."""
    gray = images.mean(dim=1, keepdim=True)
    return torch.nn.functional.adaptive_avg_pool2d(gray, _THUMBNAIL_PIXELS).flatten(1).double()
