"""The example images of a merged cell: as many as one run keeps, the first of all parts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[np.generic]]
"""Name -> (M, ...), with ``positions``, (M,); empty where a part has no images of a cell."""


def find_first_positions(parts: Sequence[Arrays], count: int) -> frozenset[int]:
    """Find the positions of the first images of a cell over all parts.

    Args:
        parts: The stored images of each part.
        count: Number of images that one run keeps.
    """
    positions = sorted(int(position) for arrays in parts if arrays for position in arrays["positions"])
    return frozenset(positions[:count])


def select_positions(arrays: Arrays, positions: Collection[int]) -> dict[str, npt.NDArray[np.generic]]:
    """Select the images at some positions; nothing if there are none of them."""
    if not arrays:
        return {}
    kept = np.isin(arrays["positions"], sorted(positions))
    return {name: part[kept] for name, part in arrays.items()} if kept.any() else {}
