"""Hold-out validation splits in which no object appears on both sides."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from robustbench_local.data.collect import Listing
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.subsample import choose_images
from robustbench_local.errors import ConfigError, DataError

ImageSet = TypeVar("ImageSet", bound=Dataset | Listing)
"""Loaded images, or their listing."""


def hold_out(data: Dataset, share: float, *, seed: int) -> tuple[Dataset, Dataset]:
    """Split a data set into a training part and a held-out part.

    Whole groups are held out, class by class, in an order that depends only on the seed and the groups'
    names. A class with a single group keeps it for training.

    Args:
        data: The data; without ``groups``, each image is its own group.
        share: Share of each class to hold out, in (0, 1).
        seed: Seed of the choice.

    Raises:
        DataError: If no class has two groups.
    """
    if not 0 < share < 1:
        raise ConfigError(f"the share that is held out must be between 0 and 1, got {share:g}")
    groups = data.ids if data.groups is None else data.groups
    rows: defaultdict[str, list[int]] = defaultdict(list)
    classes: defaultdict[int, list[str]] = defaultdict(list)
    for row, (group, label) in enumerate(zip(groups, data.labels.tolist(), strict=True)):
        if group not in rows:
            classes[label].append(group)
        rows[group].append(row)
    held_out_rows = {
        row
        for members in classes.values()
        for group in _choose_groups(members, share, seed)
        for row in rows[group]
    }
    if not held_out_rows:
        raise DataError(
            "no class has images of two objects",
            where=data.name,
            remedy="provide separate validation images",
        )
    training_rows = [row for row in range(len(data)) if row not in held_out_rows]
    return data.select_images(training_rows), data.select_images(sorted(held_out_rows))


def group_by_pattern(data: ImageSet, pattern: str) -> ImageSet:
    """Return the data with groups parsed from its image ids.

    Args:
        data: Any data set, or a listing.
        pattern: Regular expression; the part of an id that it matches (its first group, where it has one)
            names the object within the class: ``([0-9]+)_[0-9]+`` for ``14/00003_00012.ppm``.

    Raises:
        ConfigError: If the pattern is wrong, or an id does not match it.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"{pattern!r} is not a regular expression: {error}", where="group pattern"
        ) from None
    group_names = []
    for image_id, label in zip(data.ids, data.labels.tolist(), strict=True):
        match = compiled.search(image_id)
        if match is None:
            raise ConfigError(f"{pattern!r} does not match the image {image_id!r}", where="group pattern")
        group_names.append(f"{label}/{match.group(1 if compiled.groups else 0)}")
    return replace(data, groups=tuple(group_names))


def _choose_groups(groups: Sequence[str], share: float, seed: int) -> list[str]:
    """Choose a share of a class's groups: at least one if there are two, and never all."""
    count = max(1, round(share * len(groups))) if len(groups) > 1 else 0
    chosen = choose_images(groups, [0] * len(groups), limit=min(count, len(groups) - 1), seed=seed)
    return [groups[position] for position in chosen]
