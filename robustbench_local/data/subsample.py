"""Which images are used when not all are: the same ones for the same seed, evenly over the classes."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

SubsampleMethod = Literal["stratified", "first"]


def choose_images(
    ids: Sequence[str],
    labels: Sequence[int],
    *,
    limit: int | None,
    seed: int,
    choose: SubsampleMethod = "stratified",
) -> list[int]:
    """Choose images by class, as evenly as the data allow.

    Each class is put in an order of its own by hashes of the ids; then every class gives its first
    image, then its second, and so on. So the choice depends on the seed and the ids only, not on the
    order of the source, and a smaller limit chooses a subset of what a larger one does.

    Args:
        ids: One id an image, unique.
        labels: One class an image.
        limit: How many; None or more than there are: all.
        seed: Another seed makes another choice.
        choose: ``"first"`` takes the first ``limit`` images in the order of the source instead.

    Returns:
        Positions of the chosen images, ascending.
    """
    if limit is None or limit >= len(ids):
        return list(range(len(ids)))
    if choose == "first":
        return list(range(limit))
    keys = [_hash_id(seed, one) for one in ids]
    by_class: defaultdict[int, list[int]] = defaultdict(list)
    for position in sorted(range(len(ids)), key=keys.__getitem__):
        by_class[labels[position]].append(position)
    rounds = [(turn, keys[one], one) for members in by_class.values() for turn, one in enumerate(members)]
    return sorted(position for _, _, position in sorted(rounds)[:limit])


def _hash_id(seed: int, one: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{one}".encode("utf-8", "backslashreplace"), digest_size=16).digest()
