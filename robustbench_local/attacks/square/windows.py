"""Square windows of images: their sizes, the positions of their pixels, and writing into them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

_SCHEDULE_STEPS = 10_000
"""Steps of the paper's schedule."""
_HALVING_STEPS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Steps after which the fraction of the image changed at once is halved."""
_TILES_PER_SIDE = 5
"""Tiles along the shorter side of an image at the start of a search under L2 or L1."""


def compute_window_sides(
    steps: int,
    share: float,
    height: int,
    width: int,
    *,
    min_side: int = 1,
    odd: bool = False,
    rescale: bool = False,
) -> list[int]:
    """Return the side of the window at each step, non-increasing.

    Args:
        steps: Number of steps.
        share: Fraction of the image's pixels in the first windows, above 0 and at most 1.
        height: Height of the image, in pixels.
        width: Width of the images, in pixels.
        min_side: Smallest side, if the image is large enough.
        odd: Whether sides are odd numbers, if the image is large enough.
        rescale: Whether the schedule, made for 10,000 steps, is scaled to ``steps``.

    Returns:
        ``steps`` numbers, each at most the shorter side of the image.

    Source: Andriushchenko et al. 2020, arXiv:1912.00049, section 5; Croce & Hein 2020, arXiv:2003.01690.
    """
    elapsed = torch.arange(steps)
    if rescale:
        elapsed = elapsed * _SCHEDULE_STEPS // steps
    halvings = torch.bucketize(elapsed, torch.tensor(_HALVING_STEPS))
    area = share * height * width * 0.5 ** halvings.double()
    sides = area.sqrt().round().long().clamp_min(min_side)
    if odd:
        sides += 1 - sides % 2
    window_sides: list[int] = sides.clamp_max(min(height, width)).tolist()
    return window_sides


@lru_cache(maxsize=64)
def build_bump_patterns(side: int, power: int) -> Tensor:
    """Build the patterns of L2 and L1: a bump beside a dent, each highest in the middle of its half.

    Args:
        side: Side of the window.
        power: 2 for L2, 1 for L1: the sum of the absolute values to this power is 1.

    Returns:
        (2, side, side), on the CPU: one above the other, and side by side; not to be changed.

    Source: Andriushchenko et al. 2020, arXiv:1912.00049, eq. 2; Croce & Hein 2021, arXiv:2103.01208 (L1).
    """
    upper = side // 2
    pattern = torch.cat(
        [_build_nested_rectangles(upper, side, power), -_build_nested_rectangles(side - upper, side, power)]
    )
    pattern /= pattern.abs().pow(power).sum().pow(1 / power)
    return torch.stack([pattern, pattern.t()])


def _build_nested_rectangles(height: int, width: int, power: int) -> Tensor:
    """Build a stack of nested rectangles, (height, width), of unit norm: the smaller, the higher."""
    down, right = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    ring = torch.maximum(down.abs()[:, None], right.abs())
    levels = 1.0 / torch.arange(1, max(height, width) // 2 + 2) ** (4.0 if power == 1 else 2.0)
    pile = levels.flip(0).cumsum(0).flip(0)[ring]
    return pile / pile.abs().pow(power).sum().pow(1 / power)


class Windows:
    """One or several windows in each image of a batch, as positions in the image's memory.

    If sides differ, the smaller windows are as long as the largest in memory: their last row and column are
    repeated. Values of pixels can thus be computed, read and written for all windows at once; only sums have
    to leave the copies out, as `sums` does.

    Args:
        sides: The distinct side lengths, ascending.
        shape: (C, H, W) of an image.
        device: Device of the images.
        side_indices: Index of the side length of each image's windows, (W,) int64; None if there is only one.
    """

    def __init__(
        self,
        sides: tuple[int, ...],
        shape: tuple[int, ...],
        device: torch.device,
        side_indices: Tensor | None = None,
    ) -> None:
        self._sides, self._device, self._side_indices = sides, device, side_indices
        self._offsets = _compute_pixel_offsets(sides, shape, device)
        if side_indices is not None:
            self._offsets = self._offsets[side_indices]

    def locate_pixels(self, corners: Tensor) -> Tensor:
        """Return the positions of their pixels in the images, each (C, H, W) flattened.

        Args:
            corners: Upper left pixels of V windows in each image, counted within a channel, (W, V) int64.

        Returns:
            (W, V * C * side * side) int64.
        """
        offsets = self._offsets if self._side_indices is None else self._offsets[:, None]
        return (corners[:, :, None] + offsets).flatten(1)

    def sum_channels(self, values: Tensor) -> Tensor:
        """Sum each channel of each window, (W, V * C), of values (W, V * C * side * side)."""
        by_channel = values.view(len(values), -1, self._sides[-1] ** 2)
        if self._side_indices is not None:
            by_channel = (
                by_channel * _build_pixel_mask(self._sides, self._device)[self._side_indices][:, None]
            )
        return by_channel.sum(dim=2)

    def select_patterns(self, turned: Tensor, power: int) -> Tensor:
        """Return each image's pattern, (W, side * side), of the two of :func:`build_bump_patterns`."""
        patterns = _build_stored_patterns(self._sides, power, self._device)
        return patterns[0, turned] if self._side_indices is None else patterns[self._side_indices, turned]


@lru_cache(maxsize=64)
def _compute_pixel_offsets(sides: tuple[int, ...], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the pixels' memory offsets from the upper left one, (len(sides), C * largest * largest)."""
    channels, height, width = shape
    planes = torch.arange(channels)[:, None, None] * (height * width)
    tables = [
        (planes + line[:, None] * width + line).flatten()
        for line in map(_build_stored_positions(sides[-1]), sides)
    ]
    return torch.stack(tables).to(device, non_blocking=True)


@lru_cache(maxsize=64)
def _build_pixel_mask(sides: tuple[int, ...], device: torch.device) -> Tensor:
    """Return 1 for the pixels and 0 for the copies, (len(sides), largest * largest)."""
    lines = [(torch.arange(sides[-1]) < side).float() for side in sides]
    return torch.stack([(line[:, None] * line).flatten() for line in lines]).to(device, non_blocking=True)


@lru_cache(maxsize=64)
def _build_stored_patterns(sides: tuple[int, ...], power: int, device: torch.device) -> Tensor:
    """Return both :func:`build_bump_patterns` of each side, (len(sides), 2, largest * largest)."""
    lines = [(side, _build_stored_positions(sides[-1])(side)) for side in sides]
    patterns = [build_bump_patterns(side, power)[:, line][:, :, line].flatten(1) for side, line in lines]
    return torch.stack(patterns).to(device, non_blocking=True)


def _build_stored_positions(largest: int) -> Callable[[int], Tensor]:
    """Return positions along a window that is stored with ``largest`` of them: the last is repeated."""
    return lambda side: torch.arange(largest).clamp_max(side - 1)


def compute_tile_grid(height: int, width: int) -> tuple[int, int, int]:
    """Return the tiles that initially cover an image: their side, and their number down and across."""
    side = max(min(height, width) // _TILES_PER_SIDE, 1)
    return side, height // side, width // side


def build_tiled_patterns(signs: Tensor, orientations: Tensor, height: int, width: int, power: int) -> Tensor:
    """Build images covered with bumps, one per tile; a margin too small for a tile stays empty.

    Args:
        signs: -1 or 1 for each tile, (N, C, down, across).
        orientations: Index of each tile's pattern of :func:`build_bump_patterns`, 0 or 1, (N, down, across)
            int64.
        height: Height of the images.
        width: Width of the images, in pixels.
        power: As in :func:`build_bump_patterns`.

    Returns:
        (N, C, height, width).
    """
    side, down, across = compute_tile_grid(height, width)
    patterns = build_bump_patterns(side, power).to(signs.device)[orientations]
    painted = patterns[:, None] * signs[..., None, None]
    painted = painted.permute(0, 1, 2, 4, 3, 5).reshape(*signs.shape[:2], down * side, across * side)
    images = painted.new_zeros(*signs.shape[:2], height, width)
    top, left = (height - down * side) // 2, (width - across * side) // 2
    images[:, :, top : top + down * side, left : left + across * side] = painted
    return images
