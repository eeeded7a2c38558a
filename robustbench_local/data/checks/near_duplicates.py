"""Near-duplicates: the same photograph resized, recompressed, cropped, or made brighter or darker.

Each image is compared with the images whose gray thumbnails correlate most with its own, over windows of
either image, so that a crop is found too. Correlation does not depend on brightness and contrast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name
from torch import Tensor

from robustbench_local.data.look_alikes import standardize_rows

MIN_ALIGNED_LIKENESS = 0.98
"""Correlation at the best alignment from which on two images are near-duplicates."""
SURE_LIKENESS = 0.99
"""The same from which on they are one photograph; between the two they may be two of one scene."""
MIN_CONTRAST = 0.02
"""Standard deviation of gray values, in [0, 1], below which an image shows too little to be compared."""
_MIN_COARSE_LIKENESS = 0.5
"""Correlation of the thumbnails of two images without alignment from which on they are aligned."""
_MIN_REFINED_LIKENESS = 0.9
"""Correlation on the grid of windows from which on windows between its points are tried."""
_CANDIDATES = 8
_SIDE, _COARSE_SIDE = 16, 8
_WINDOW_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8)
"""Sides of the windows, as shares of the image's."""
_BATCH = 256


@dataclass(frozen=True)
class DuplicatePair:
    """Two images that are near-duplicates; ``first`` < ``second`` are their positions."""

    first: int
    second: int
    likeness: float


def find_near_duplicates(
    thumbnails: Tensor, progress: Callable[[int, int], None] | None = None
) -> list[DuplicatePair]:
    """Find pairs of near-duplicates.

    Args:
        thumbnails: (N, 3, 32, 32), uint8.
        progress: Called with (images compared, images in total).

    Returns:
        The pairs, the most alike first. Images of nearly one color are compared with none.
    """
    if len(thumbnails) < 2:
        return []
    gray = thumbnails.float().mean(dim=1, keepdim=True) / 255
    candidates = _list_candidates(gray, progress)
    pairs = []
    for start in range(0, len(candidates), _BATCH):
        rows = candidates[start : start + _BATCH]
        first, second = gray[rows[:, 0]], gray[rows[:, 1]]
        likeness = torch.maximum(_align_images(first, second), _align_images(second, first))
        for (one, other), value in zip(rows.tolist(), likeness.tolist(), strict=True):
            if value >= MIN_ALIGNED_LIKENESS:
                pairs.append(DuplicatePair(one, other, min(value, 1.0)))
    return sorted(pairs, key=lambda pair: (-pair.likeness, pair.first, pair.second))


def _list_candidates(gray: Tensor, progress: Callable[[int, int], None] | None) -> Tensor:
    """Return pairs of positions, (P, 2), each once: every image with those most like it."""
    unit = standardize_rows(F.adaptive_avg_pool2d(gray, _COARSE_SIDE).flatten(1))
    unit[gray.flatten(1).std(dim=1) < MIN_CONTRAST] = 0
    count = min(_CANDIDATES, len(unit) - 1)
    found = []
    for start in range(0, len(unit) if count else 0, _BATCH):
        likeness = unit[start : start + _BATCH] @ unit.T
        rows = torch.arange(start, start + len(likeness))
        likeness[rows - start, rows] = -1
        values, others = likeness.topk(count, dim=1)
        pairs = torch.stack([rows[:, None].expand_as(others), others], dim=2)[values >= _MIN_COARSE_LIKENESS]
        found.append(pairs.sort(dim=1).values)
        if progress is not None:
            progress(start + len(likeness), len(unit))
    return torch.unique(torch.cat(found), dim=0) if found else torch.empty(0, 2, dtype=torch.int64)


def _align_images(images: Tensor, others: Tensor) -> Tensor:
    """Return the largest correlation of a window of each image with the other image, (P,)."""
    windows = standardize_rows((images.flatten(1) @ _build_window_map()).view(len(images), -1, _SIDE**2))
    whole = standardize_rows(F.adaptive_avg_pool2d(others, _SIDE).flatten(1))
    values, best = torch.einsum("pws,ps->pw", windows, whole).max(dim=1)
    promising = (values >= _MIN_REFINED_LIKENESS).nonzero().flatten()
    if len(promising):
        refined = _refine_windows(images[promising], whole[promising], _list_windows()[best[promising]])
        values[promising] = torch.maximum(values[promising], refined)
    return values


def _refine_windows(images: Tensor, whole: Tensor, windows: Tensor) -> Tensor:
    """Return the largest correlation over windows close to the best one of the grid, (P,)."""
    steps = torch.tensor([-1.0, 0.0, 1.0])
    nearby = torch.cartesian_prod(0.025 * steps, 0.025 * steps, 0.025 * steps)
    close = (windows[:, None] + nearby).flatten(0, 1)
    repeated = images.repeat_interleave(len(nearby), dim=0)
    cut = standardize_rows(_cut_windows(repeated, close)).view(len(images), len(nearby), -1)
    return torch.einsum("pws,ps->pw", cut, whole).max(dim=1).values


def _cut_windows(images: Tensor, windows: Tensor) -> Tensor:
    """Return one window of each image, (N, 16 * 16); see `_list_windows`."""
    maps = torch.zeros(len(windows), 2, 3)
    maps[:, 0, 0] = maps[:, 1, 1] = windows[:, 0]
    maps[:, 0, 2], maps[:, 1, 2] = windows[:, 1], windows[:, 2]
    grid = F.affine_grid(maps, [len(maps), 1, 32, 32], align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return F.adaptive_avg_pool2d(moved, _SIDE).flatten(1)


@cache
def _list_windows() -> Tensor:
    """Return the windows that are tried, (W, 3): share of the side, and the center from -1 to 1."""
    windows = []
    for share in _WINDOW_SHARES:
        steps = 1 if share == 1 else 3 if share > 0.92 else 5
        shifts = [0.0] if steps == 1 else ((1 - share) * torch.linspace(-1, 1, steps)).tolist()
        windows += [(share, right, down) for down in shifts for right in shifts]
    return torch.tensor(windows)


@cache
def _build_window_map() -> Tensor:
    """Return the linear map of a gray thumbnail to all its windows, (32 * 32, W * 16 * 16)."""
    pixels = torch.eye(32 * 32).view(-1, 1, 32, 32)
    cut = [_cut_windows(pixels, window.expand(len(pixels), 3)) for window in _list_windows()]
    return torch.cat(cut, dim=1)
