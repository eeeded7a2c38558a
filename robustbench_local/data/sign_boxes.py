"""Masks from boxes around objects, as data sets of photographs provide them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robustbench_local.counted_nouns import format_count
from robustbench_local.data.dataset import format_rows
from robustbench_local.errors import DataError

_COLUMN_COUNTS = (4, 6)


def build_box_masks(boxes: NDArray[Any], size: tuple[int, int, int], where: str) -> NDArray[np.bool_]:
    """Build a mask of the pixels inside each image's box.

    Args:
        boxes: (N, 4): left, top, right and bottom edge in pixels of the stored images, or (N, 6): width and
            height of the original image that the edges refer to, then the edges, as in the annotations of
            GTSRB. Any numeric dtype; a pixel is inside if more than half of it is.
        size: N, height and width of the images.
        where: Name of the source in messages.

    Returns:
        (N, H, W); at least one pixel of each image.

    Raises:
        DataError: If the shape is wrong, or a box has no area or extends beyond its image.
    """
    count, height, width = size
    if boxes.ndim != 2 or boxes.shape[1] not in _COLUMN_COUNTS or boxes.dtype.kind not in "iuf":
        what = f"boxes must be numbers (N, 4) or (N, 6), got {boxes.dtype} {boxes.shape}"
        remedy = "save left, top, right, bottom; put width and height first if they refer to other images"
        raise DataError(what, where=where, remedy=remedy)
    if len(boxes) != count:
        raise DataError(f"{format_count(count, 'image')} but {format_count(len(boxes), 'box')}", where=where)
    stored_size = np.broadcast_to(np.array([width, height], dtype=np.float64), (count, 2))
    reference_size = boxes[:, :2].astype(np.float64) if boxes.shape[1] == max(_COLUMN_COUNTS) else stored_size
    edges = boxes[:, -4:].astype(np.float64)
    _check_boxes(edges, reference_size, where)
    # converted to shares of the reference image, then to pixels of the stored image
    left, top, right, bottom = (edges / np.tile(reference_size, 2) * np.tile(stored_size, 2)).T[:, :, None]
    across, down = np.arange(width) + 0.5, np.arange(height) + 0.5
    inside: NDArray[np.bool_] = (
        _find_pixels_between(top, down, bottom)[:, :, None]
        & _find_pixels_between(left, across, right)[:, None]
    )
    return inside


def _find_pixels_between(low: NDArray[Any], centers: NDArray[Any], high: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark the pixels whose centers lie between two edges, (N, pixels); the nearest one if none does."""
    inside: NDArray[np.bool_] = (centers >= low) & (centers < high)
    nearest = np.abs(centers - (low + high) / 2).argmin(axis=1)
    inside[np.arange(len(inside)), nearest] = True
    return inside


def _check_boxes(edges: NDArray[Any], reference_size: NDArray[Any], where: str) -> None:
    left, top, right, bottom = edges.T
    is_valid = (left < right) & (top < bottom) & (left >= 0) & (top >= 0)  # NaN compares false
    is_valid &= (right <= reference_size[:, 0]) & (bottom <= reference_size[:, 1])
    if not is_valid.all():
        rows = format_rows(torch.from_numpy(~is_valid))
        first = int((~is_valid).argmax())
        box, (width, height) = edges[first].tolist(), reference_size[first].tolist()
        what = f"a box has no area or extends beyond its image: {box} in {width:g} by {height:g}"
        remedy = "write left, top, right and bottom edge, in this order"
        raise DataError(what, where=f"{where}, {rows}", remedy=remedy)
