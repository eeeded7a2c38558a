"""Where a sticker may be: on the surface of a sign, in a shape, and no larger than its share."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from robustbench_local.errors import ThreatError
from robustbench_local.threat import ThreatModel

BORDER = 0.1
"""Of a photograph without an outline: the frame around the sign's box, as a share of its side."""
_BAR = 2.5
"""Width over height of each of two rectangles: two that cover 37 % still fit into an octagon."""


def surface(images: Tensor, masks: Tensor | None) -> Tensor:
    """The surface of each sign.

    Args:
        images: (N, C, H, W).
        masks: The signs' outlines, (N, 1, H, W), boolean; None: each sign fills its frame but for a border of
            10 %, as benchmarks of traffic signs crop.

    Returns:
        (N, 1, H, W), boolean.
    """
    if masks is not None:
        return masks.to(images.device)
    count, _, height, width = images.shape
    box = torch.zeros(count, 1, height, width, dtype=torch.bool, device=images.device)
    top, left = round(BORDER * height), round(BORDER * width)
    box[..., top : height - top, left : width - left] = True
    return box


def allowance(surfaces: Tensor, share: float) -> Tensor:
    """How many pixels a sticker may cover: the share of the sign's surface, rounded down; int64, (N,)."""
    return (surfaces.flatten(1).sum(dim=1).double() * share + 1e-6).floor().long()


def sticker_mask(surfaces: Tensor, threat: ThreatModel, *, wanted: Tensor | None = None) -> Tensor:
    """The pixels of a sticker.

    Args:
        surfaces: (N, 1, H, W), boolean.
        threat: Shape and share. Rectangles: two bars, above and below the middle. Square: inside the surface
            where it covers most of what is wanted. Found: the pixels wanted most. Poster: everything.
        wanted: How much each pixel is worth, (N, 1, H, W), at least 0. Without it a square lies in the
            middle.

    Returns:
        (N, 1, H, W), boolean: inside the surface, and no more than the share.

    Raises:
        ThreatError: If pixels are to be found and nothing says which are wanted.
    """
    if threat.transformation == "poster":
        return surfaces & (threat.eps > 0)
    pixels = allowance(surfaces, threat.eps).tolist()
    rows = [plane[0] for plane in surfaces]
    if threat.transformation == "rectangles":
        shaped = [_rectangles(plane, most) for plane, most in zip(rows, pixels, strict=True)]
    elif threat.transformation == "square":
        worth = [_middle(plane) for plane in rows] if wanted is None else [plane[0] for plane in wanted]
        shaped = [_square(*each) for each in zip(rows, worth, pixels, strict=True)]
    else:
        if wanted is None:
            raise ThreatError("a sticker of found pixels needs to be told which pixels are wanted")
        shaped = [_most_wanted(*each) for each in zip(rows, [w[0] for w in wanted], pixels, strict=True)]
    return torch.stack(shaped)[:, None] if shaped else surfaces


def square_side(most: int) -> int:
    """Side of the largest square of at most so many pixels."""
    return math.isqrt(most)


def _rectangles(plane: Tensor, most: int) -> Tensor:
    """Two bars of whole pixels, a quarter of the surface's height above and below its middle."""
    found = torch.zeros_like(plane)
    down, across = (plane.any(dim=axis).nonzero().flatten() for axis in (1, 0))
    half = most // 2
    if half == 0:
        return found
    top, left, height, width = int(down[0]), int(across[0]), len(down), len(across)
    bar_height = max(1, round(math.sqrt(half / _BAR)), -(-half // width))
    bar_width = half // bar_height
    first = left + (width - bar_width) // 2
    above = max(0, round(height / 4 - bar_height / 2))
    for begin in (top + above, top + height - above - bar_height):
        found[max(begin, 0) : begin + bar_height, first : first + bar_width] = True
    return found & plane


def _square(plane: Tensor, worth: Tensor, most: int) -> Tensor:
    """The square that lies inside the surface as far as any can, and there covers the most worth."""
    found, side = torch.zeros_like(plane), square_side(most)
    if side == 0:
        return found
    layers = torch.stack([plane.double(), worth.double() * plane])
    inside, gain = avg_pool2d(layers[None], side, stride=1, divisor_override=1)[0]
    best = torch.where(inside == inside.max(), gain, -torch.inf)
    row, column = divmod(int(best.argmax()), best.shape[1])
    found[row : row + side, column : column + side] = True
    return found & plane


def _most_wanted(plane: Tensor, worth: Tensor, most: int) -> Tensor:
    """The surface's pixels of the greatest worth, the first ones where they are equal."""
    ranked = worth.masked_fill(~plane, -torch.inf).flatten().sort(descending=True, stable=True).indices
    found = torch.zeros_like(plane).flatten()
    found[ranked[:most]] = True
    return found.view_as(plane)


def _middle(plane: Tensor) -> Tensor:
    """Worth that grows towards the middle of the surface."""
    places = plane.nonzero().double()
    rows, columns = (torch.arange(size, device=plane.device).double() for size in plane.shape)
    middle = places.mean(dim=0)
    squared = (rows[:, None] - middle[0]) ** 2 + (columns[None, :] - middle[1]) ** 2
    return squared.max() - squared
