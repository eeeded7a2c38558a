"""The allowed pixels of a sticker: on the surface of a sign, in a shape, and up to its share."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from robustbench_local.errors import ThreatError
from robustbench_local.threats.threat_model import ThreatModel

BORDER_SHARE = 0.1
"""Border around the sign in a photograph without an outline, as a share of the side."""
BAR_LAYOUTS = ((2.5, 0.25), (1.5, 0.25), (1.8, 0.28))
"""Two equal bars, one above the other: width over height, and the distance of their centers from the top and
the bottom, as a share of the surface's height. Two bars that cover 37% still fit into an octagon."""
_MAX_ASPECT_RATIO = 5.0
"""Largest aspect ratio of rectangles that are placed by their worth."""
_MIN_COVERAGE_SHARE = 0.9
"""Smallest share of the allowed pixels that they cover."""
_MAX_SIZES_TRIED = 12
"""Number of sizes of such rectangles that are tried."""


def build_surface_masks(images: Tensor, masks: Tensor | None) -> Tensor:
    """Return the surface of each sign.

    Args:
        images: (N, C, H, W).
        masks: The signs' outlines, (N, 1, H, W), boolean; None: each sign fills its frame except for a border
            of 10%, as in crops of traffic-sign benchmarks.

    Returns:
        (N, 1, H, W), boolean.
    """
    if masks is not None:
        return masks.to(images.device)
    count, _, height, width = images.shape
    box = torch.zeros(count, 1, height, width, dtype=torch.bool, device=images.device)
    top, left = round(BORDER_SHARE * height), round(BORDER_SHARE * width)
    box[..., top : height - top, left : width - left] = True
    return box


def count_allowed_pixels(surfaces: Tensor, share: float) -> Tensor:
    """Return the most pixels of a sticker: the share of the sign's surface, rounded down; int64, (N,)."""
    return (surfaces.flatten(1).sum(dim=1).double() * share + 1e-6).floor().long()


def build_sticker_mask(
    surfaces: Tensor, threat: ThreatModel, *, pixel_worth: Tensor | None = None, layout: int = 0
) -> Tensor:
    """Choose the pixels of a sticker.

    Args:
        surfaces: (N, 1, H, W), boolean.
        threat: Shape and share. Rectangles: two of equal size inside the surface that do not overlap and
            cover the greatest worth. Square: likewise. Found: the pixels of the greatest worth. Poster: all.
        pixel_worth: Worth of each pixel, (N, 1, H, W), at least 0. Without it, rectangles follow ``layout``,
            and a square is in the middle.
        layout: Index in ``BAR_LAYOUTS``.

    Returns:
        (N, 1, H, W), boolean: inside the surface, and no more than the share.

    Raises:
        ThreatError: If the shape is ``found`` and there is no worth.
    """
    if threat.transformation == "poster":
        return surfaces & (threat.eps > 0)
    pixels = count_allowed_pixels(surfaces, threat.eps).tolist()
    rows = [plane[0] for plane in surfaces]
    worth = None if pixel_worth is None else [plane[0] for plane in pixel_worth]
    if threat.transformation == "rectangles" and worth is None:
        shaped = [
            _build_bars(plane, most, *BAR_LAYOUTS[layout]) for plane, most in zip(rows, pixels, strict=True)
        ]
    elif threat.transformation == "rectangles":
        shaped = [_find_best_pair(*sign) for sign in zip(rows, worth or (), pixels, strict=True)]
    elif threat.transformation == "square":
        worth = [_compute_centre_worth(plane) for plane in rows] if worth is None else worth
        shaped = [_find_best_square(*sign) for sign in zip(rows, worth, pixels, strict=True)]
    else:
        if worth is None:
            raise ThreatError("a sticker of found pixels needs the worth of each pixel")
        shaped = [_select_top_pixels(*sign) for sign in zip(rows, worth, pixels, strict=True)]
    return torch.stack(shaped)[:, None] if shaped else surfaces


def compute_square_side(most: int) -> int:
    """Return the side of the largest square of at most ``most`` pixels."""
    return math.isqrt(most)


def _build_bars(plane: Tensor, most: int, ratio: float, middle: float) -> Tensor:
    """Build two bars of whole pixels, one above the other."""
    mask = torch.zeros_like(plane)
    down, across = (plane.any(dim=axis).nonzero().flatten() for axis in (1, 0))
    if most < 2:
        return mask
    top, left, height, width = int(down[0]), int(across[0]), len(down), len(across)
    bar_height, bar_width = _find_bar_size(most // 2, ratio, width)
    first = left + (width - bar_width) // 2
    above = max(0, round(height * middle - bar_height / 2))
    for begin in (top + above, top + height - above - bar_height):
        mask[max(begin, 0) : begin + bar_height, first : first + bar_width] = True
    return mask & plane


def _find_bar_size(most: int, ratio: float, widest: int) -> tuple[int, int]:
    """Return height and width of a rectangle of nearly ``most`` pixels, at about that ratio."""
    sizes = [(height, min(most // height, widest)) for height in range(1, most + 1)]

    def worth(size: tuple[int, int]) -> float:
        height, width = size
        return height * width - most * abs(math.log(width / height / ratio)) / 6

    return max(sizes, key=worth)


def _find_best_pair(plane: Tensor, worth: Tensor, most: int) -> Tensor:
    """Find the rectangle inside the surface with the most worth, and the best one beside it; else bars."""
    best, best_mask = -math.inf, _build_bars(plane, most, *BAR_LAYOUTS[0])
    layers = torch.stack([plane.double(), worth.double() * plane])
    for height, width in _list_sizes(most // 2):
        if height > plane.shape[0] or width > plane.shape[1]:
            continue
        inside, gain = _sum_windows(layers, height, width)
        gain = gain.masked_fill(inside < height * width - 0.5, -torch.inf)
        pair, total = torch.zeros_like(plane), 0.0
        for _ in range(2):
            row, column = divmod(int(gain.argmax()), gain.shape[1])
            total += float(gain[row, column])
            pair[row : row + height, column : column + width] = True
            gain[
                max(row - height + 1, 0) : row + height, max(column - width + 1, 0) : column + width
            ] = -torch.inf
        if total > best:
            best, best_mask = total, pair
    return best_mask


def _list_sizes(most: int) -> list[tuple[int, int]]:
    """List heights and widths of rectangles of nearly ``most`` pixels, from upright to flat ones."""
    lowest, highest = (
        math.ceil(math.sqrt(most / _MAX_ASPECT_RATIO)),
        math.floor(math.sqrt(most * _MAX_ASPECT_RATIO)),
    )
    heights = range(max(lowest, 1), highest + 1)
    sizes = [
        (height, most // height)
        for height in heights
        if most // height * height >= _MIN_COVERAGE_SHARE * most
    ]
    return sizes[:: max(1, -(-len(sizes) // _MAX_SIZES_TRIED))]


def _sum_windows(layers: Tensor, height: int, width: int) -> Tensor:
    """Sum each layer, (L, H, W), over every window of that size, (L, H - height + 1, W - width + 1)."""
    table = pad(layers, (1, 0, 1, 0)).cumsum(dim=1).cumsum(dim=2)
    lower, upper = table[:, height:], table[:, :-height]
    return lower[:, :, width:] - lower[:, :, :-width] - upper[:, :, width:] + upper[:, :, :-width]


def _find_best_square(plane: Tensor, worth: Tensor, most: int) -> Tensor:
    """Find the square with the most worth among those with the most pixels inside the surface."""
    mask, side = torch.zeros_like(plane), compute_square_side(most)
    if side == 0:
        return mask
    layers = torch.stack([plane.double(), worth.double() * plane])
    inside, gain = _sum_windows(layers, side, side)
    best = torch.where(inside > inside.max() - 0.5, gain, -torch.inf)
    row, column = divmod(int(best.argmax()), best.shape[1])
    mask[row : row + side, column : column + side] = True
    return mask & plane


def _select_top_pixels(plane: Tensor, worth: Tensor, most: int) -> Tensor:
    """Select the surface's pixels of the greatest worth; ties go to the first ones."""
    ranked = worth.masked_fill(~plane, -torch.inf).flatten().sort(descending=True, stable=True).indices
    mask = torch.zeros_like(plane).flatten()
    mask[ranked[:most]] = True
    return mask.view_as(plane)


def _compute_centre_worth(plane: Tensor) -> Tensor:
    """Compute a worth that grows towards the middle of the surface."""
    positions = plane.nonzero().double()
    rows, columns = (torch.arange(size, device=plane.device).double() for size in plane.shape)
    middle = positions.mean(dim=0)
    squared = (rows[:, None] - middle[0]) ** 2 + (columns[None, :] - middle[1]) ** 2
    return squared.max() - squared
