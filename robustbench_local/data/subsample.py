"""Choice of a subset of images: reproducible for a seed, and even over the classes."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

SubsampleMethod = Literal["stratified", "random", "first"]


def choose_images(
    ids: Sequence[str],
    labels: Sequence[int],
    *,
    limit: int | None,
    seed: int,
    choose: SubsampleMethod = "stratified",
) -> list[int]:
    """Choose images by class, as evenly as the data allow.

    Each class is sorted by hashes of the ids. Then every class contributes its first image, then its second,
    and so on. So the choice depends only on the seed and the ids, not on the order of the source, and a
    smaller limit chooses a subset of a larger one's images.

    Args:
        ids: One unique id per image.
        labels: One class per image.
        limit: Number of images; None, or more than there are, chooses all.
        seed: Seed of the choice.
        choose: ``"random"`` keeps the classes' shares instead, up to chance; ``"first"`` takes the first
            ``limit`` images in the order of the source.

    Returns:
        Positions of the chosen images, ascending.
    """
    if limit is None or limit >= len(ids):
        return list(range(len(ids)))
    if choose == "first":
        return list(range(limit))
    keys = [_hash_id(seed, image_id) for image_id in ids]
    if choose == "random":
        return sorted(sorted(range(len(ids)), key=keys.__getitem__)[:limit])
    by_class: defaultdict[int, list[int]] = defaultdict(list)
    for position in sorted(range(len(ids)), key=keys.__getitem__):
        by_class[labels[position]].append(position)
    rounds = [(turn, keys[row], row) for members in by_class.values() for turn, row in enumerate(members)]
    return sorted(position for _, _, position in sorted(rounds)[:limit])


def _hash_id(seed: int, image_id: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{image_id}".encode("utf-8", "backslashreplace"), digest_size=16).digest()
