"""Holding images out for validation, so that no object is seen on both sides."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from robustbench_local.data.dataset import Dataset
from robustbench_local.data.subsample import choose_images
from robustbench_local.errors import ConfigError, DataError


def hold_out(data: Dataset, share: float, *, seed: int) -> tuple[Dataset, Dataset]:
    """Split a data set: what is trained on, and what is held out.

    Whole groups are held out, class by class, in an order that depends on the seed and the groups' names
    only. A class with a single group keeps it for training.

    Args:
        data: With ``groups`` where images show the same object; without, each image stands for itself.
        share: Of each class, to be held out, in (0, 1).
        seed: Another seed holds out others.

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
    held = {
        row
        for members in classes.values()
        for group in _choose_groups(members, share, seed)
        for row in rows[group]
    }
    if not held:
        raise DataError(
            "no class has images of two objects",
            where=data.name,
            remedy="name validation images of their own",
        )
    kept = [row for row in range(len(data)) if row not in held]
    return data.select_images(kept), data.select_images(sorted(held))


def group_by_pattern(data: Dataset, pattern: str) -> Dataset:
    """The data set with groups read from its image ids.

    Args:
        data: Any data set.
        pattern: Regular expression; the part of an id that it matches (its first group, where it has one)
            names the object within the class: ``([0-9]+)_[0-9]+`` for ``14/00003_00012.ppm``.

    Raises:
        ConfigError: If the pattern is wrong, or an id does not match it.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{pattern!r} is no regular expression: {error}", where="group pattern") from None
    found = []
    for one, label in zip(data.ids, data.labels.tolist(), strict=True):
        match = compiled.search(one)
        if match is None:
            raise ConfigError(f"{pattern!r} does not match the image {one!r}", where="group pattern")
        found.append(f"{label}/{match.group(1 if compiled.groups else 0)}")
    return replace(data, groups=tuple(found))


def _choose_groups(groups: Sequence[str], share: float, seed: int) -> list[str]:
    """A share of a class's groups, at least one if another is left."""
    count = max(1, round(share * len(groups))) if len(groups) > 1 else 0
    chosen = choose_images(groups, [0] * len(groups), limit=min(count, len(groups) - 1), seed=seed)
    return [groups[position] for position in chosen]
