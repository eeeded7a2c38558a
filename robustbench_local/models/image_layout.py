"""The order of an exported network's input: channels first or last, its size, and its batch size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robustbench_local.errors import ModelError

IMAGE_CHANNELS = (1, 3, 4)
"""Numbers of channels by which an axis is taken for that of the channels."""


@dataclass(frozen=True, kw_only=True)
class ImageLayout:
    """How an exported network takes a batch of images; None for what its file leaves open."""

    batch_size: int | None
    channels: int | None
    size: tuple[int, int] | None
    """(H, W)."""
    is_channels_last: bool

    def arrange_images(self, images: np.ndarray) -> np.ndarray:
        """Return images (N, C, H, W) in the network's order, contiguous."""
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1) if self.is_channels_last else images)


def find_layout(shape: Sequence[int | None], *, where: str, prefers_last: bool) -> ImageLayout:
    """Return the layout of an input by its shape.

    Args:
        shape: Of the input, four axes; None where it is open.
        where: The file, for messages.
        prefers_last: Whether channels are last where the shape does not tell.

    Raises:
        ModelError: If it has another number of axes.
    """
    if len(shape) != 4:
        raise ModelError(
            f"takes {format_shape(shape)}, not images (N, C, H, W) or (N, H, W, C)",
            where=where,
            remedy="export the network with a batch of images as its input",
        )
    is_first, is_last = shape[1] in IMAGE_CHANNELS, shape[3] in IMAGE_CHANNELS
    if is_first == is_last:  # both fit, or neither does: most networks take square images
        is_first, is_last = shape[2] == shape[3], shape[1] == shape[2]
    if is_first == is_last:
        is_last = prefers_last
    return make_layout(shape, is_channels_last=is_last)


def make_layout(shape: Sequence[int | None], *, is_channels_last: bool) -> ImageLayout:
    """Return the layout of an input of four axes, None where one is open."""
    channels, height, width = (shape[3], shape[1], shape[2]) if is_channels_last else shape[1:]
    return ImageLayout(
        batch_size=shape[0],
        channels=channels,
        size=(height, width) if height is not None and width is not None else None,
        is_channels_last=is_channels_last,
    )


def format_shape(shape: Sequence[int | None]) -> str:
    """Return a shape as text; a question mark stands for an open axis."""
    return f"({', '.join('?' if size is None else str(size) for size in shape)})"
