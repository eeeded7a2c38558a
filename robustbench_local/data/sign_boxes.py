"""Boxes around objects, as data sets of photographs give them, as masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robustbench_local.data.dataset import format_rows
from robustbench_local.errors import DataError

_COLUMN_COUNTS = (4, 6)


def build_box_masks(boxes: NDArray[Any], size: tuple[int, int, int], where: str) -> NDArray[np.bool_]:
    """The pixels inside each image's box.

    Args:
        boxes: (N, 4): left, top, right and bottom edge in pixels of the images as they are stored, or
            (N, 6): width and height of the picture that the edges are measured in, then the edges, as the
            annotations of GTSRB have them. Numbers of any kind; an edge between two pixels takes in that
            of which more than half is inside.
        size: N, height and width of the images.
        where: What messages call the source.

    Returns:
        (N, H, W); at least one pixel of each image.

    Raises:
        DataError: If the shape is another one, or a box has no area or leaves its picture.
    """
    count, height, width = size
    if boxes.ndim != 2 or boxes.shape[1] not in _COLUMN_COUNTS or boxes.dtype.kind not in "iuf":
        what = f"boxes must be numbers (N, 4) or (N, 6), got {boxes.dtype} {boxes.shape}"
        remedy = "save left, top, right, bottom; before them width and height if they are of other pictures"
        raise DataError(what, where=where, remedy=remedy)
    if len(boxes) != count:
        raise DataError(f"{count} images but {len(boxes)} boxes", where=where)
    own = np.broadcast_to(np.array([width, height], dtype=np.float64), (count, 2))
    measured = boxes[:, :2].astype(np.float64) if boxes.shape[1] == max(_COLUMN_COUNTS) else own
    edges = boxes[:, -4:].astype(np.float64)
    _check_boxes(edges, measured, where)
    # as shares of the picture, then as pixels of the image
    left, top, right, bottom = (edges / np.tile(measured, 2) * np.tile(own, 2)).T[:, :, None]
    across, down = np.arange(width) + 0.5, np.arange(height) + 0.5
    inside: NDArray[np.bool_] = (
        _find_pixels_between(top, down, bottom)[:, :, None]
        & _find_pixels_between(left, across, right)[:, None]
    )
    return inside


def _find_pixels_between(low: NDArray[Any], middles: NDArray[Any], high: NDArray[Any]) -> NDArray[np.bool_]:
    """Which pixels' middles lie between two edges, (N, pixels); the nearest one if none does."""
    inside: NDArray[np.bool_] = (middles >= low) & (middles < high)
    nearest = np.abs(middles - (low + high) / 2).argmin(axis=1)
    inside[np.arange(len(inside)), nearest] = True
    return inside


def _check_boxes(edges: NDArray[Any], measured: NDArray[Any], where: str) -> None:
    left, top, right, bottom = edges.T
    sound = (left < right) & (top < bottom) & (left >= 0) & (top >= 0)  # NaN is never sound
    sound &= (right <= measured[:, 0]) & (bottom <= measured[:, 1])
    if not sound.all():
        rows = format_rows(torch.from_numpy(~sound))
        first = int((~sound).argmax())
        shown, (width, height) = edges[first].tolist(), measured[first].tolist()
        what = f"a box has no area or leaves its picture: {shown} in {width:g} by {height:g}"
        remedy = "write left, top, right and bottom edge, in this order"
        raise DataError(what, where=f"{where}, {rows}", remedy=remedy)
