"""How images enter a graph: the order of its axes, its type, and sizes that it fixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from robustbench_local.bpda import apply_straight_through
from robustbench_local.errors import ModelError
from robustbench_local.models.image_layout import IMAGE_CHANNELS, find_layout

Layout = Literal["channels first", "channels last", "without channels", "flat", "column"]

_FLOATS: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}
_BYTES = "tensor(uint8)"
_BOOLEAN = "tensor(bool)"
_BYTE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class ImageInput:
    """The input of a graph that takes images, and how to convert a batch (N, C, H, W) to it.

    Args:
        name: Its name.
        dtype: The numpy type.
        layout: Order of the axes; ``"flat"`` is (N, C * H * W), ``"column"`` is (N, C * H * W, 1), and
            ``"without channels"`` is (N, H, W).
        has_batch: Whether the first axis is the batch; without, images are given one by one.
        batch_size: The only number of images that it takes; None for any.
        channels: Number of channels, where it is fixed.
        size: (H, W), where they are fixed.
        flags: Other inputs, each a truth value, with their shapes; they are set to false.
    """

    name: str
    dtype: Any
    layout: Layout
    has_batch: bool
    batch_size: int | None
    channels: int | None
    size: tuple[int, int] | None
    flags: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def takes_bytes(self) -> bool:
        """Return whether pixels are whole numbers from 0 to 255."""
        return bool(self.dtype == np.uint8)

    def arrange_images(self, images: Tensor) -> Tensor:
        """Return the input of the graph for images (N, C, H, W); differentiable.

        Bytes are rounded with the gradient of the identity, as floats.

        Args:
            images: In [0, 1], normalised if the graph does not do it; 0 to 255 where it takes bytes.

        Raises:
            ModelError: If bytes are wanted, and the images are not in [0, 255].
        """
        if self.takes_bytes:
            images = self._round_to_bytes(images)
        if self.layout == "channels last":
            images = images.permute(0, 2, 3, 1)
        elif self.layout in ("flat", "column"):
            images = images.flatten(1)
            images = images if self.layout == "flat" else images.unsqueeze(-1)
        elif self.layout == "without channels":
            images = images.squeeze(1)
        return images if self.has_batch else images.squeeze(0)

    def describe_conversion(self) -> list[str]:
        """Return what happens to the images, one sentence each."""
        notes = []
        if self.layout == "channels last":
            notes.append("takes channels last: images are transposed inside")
        if self.layout in ("flat", "column"):
            notes.append("takes rows of pixels: images are flattened inside, channels first")
        if not self.has_batch:
            notes.append("takes one image without a batch axis: images are given one by one")
        if self.takes_bytes:
            notes.append("takes whole numbers from 0 to 255: images are rounded to them inside")
        notes += [f"its input {name!r} is set to false" for name, _ in self.flags]
        return notes

    def _round_to_bytes(self, images: Tensor) -> Tensor:
        values = images.detach()
        limit = 255 + _BYTE_TOLERANCE
        if len(values) and not -_BYTE_TOLERANCE <= float(values.min()) <= float(values.max()) <= limit:
            raise ModelError(
                f"the file takes pixels as whole numbers, and is given values from {values.min():.3g} to "
                f"{values.max():.3g}",
                where=self.name,
                remedy="set normalize: none: the file normalizes by itself",
            )
        return apply_straight_through(lambda pixels: torch.round(pixels).clamp(0, 255), images)


def find_image_input(inputs: Sequence[Any], where: str) -> ImageInput:
    """Find the input for images among those of onnxruntime's session.

    Args:
        inputs: Each with ``name``, ``type`` and ``shape``.
        where: The file, for messages.

    Raises:
        ModelError: If there is none, or another input is needed that is not a truth value.
    """
    flags = [entry for entry in inputs if entry.type == _BOOLEAN and entry.shape in ([], [1])]
    others = [entry for entry in inputs if entry not in flags]
    if len(others) != 1:
        names = ", ".join(entry.name for entry in inputs)
        raise ModelError(f"takes {len(inputs)} inputs ({names}), not one batch of images", where=where)
    entry = others[0]
    shape = [size if isinstance(size, int) and size > 0 else None for size in entry.shape]
    dtype = np.uint8 if entry.type == _BYTES else _FLOATS.get(entry.type)
    if dtype is None or not 2 <= len(shape) <= 4:
        raise ModelError(
            f"takes {entry.type} {entry.shape}, not images",
            where=where,
            remedy="export it with one input (N, C, H, W) or (N, H, W, C), in floats or uint8",
        )
    layout, has_batch = _find_layout(entry.shape, shape, where)
    inner = shape[1:] if has_batch else shape
    nothing: list[int | None] = [None, None]
    if layout in ("flat", "column"):
        channels, sides = None, nothing
    elif layout == "without channels":
        channels, sides = 1, inner
    else:
        channels, sides = (inner[0], inner[1:]) if layout == "channels first" else (inner[2], inner[:2])
    height, width = sides
    return ImageInput(
        name=entry.name,
        dtype=dtype,
        layout=layout,
        has_batch=has_batch,
        batch_size=shape[0] if has_batch else 1,
        channels=channels,
        size=(height, width) if height is not None and width is not None else None,
        flags=tuple((flag.name, tuple(flag.shape)) for flag in flags),
    )


def _find_layout(names: Sequence[Any], shape: Sequence[int | None], where: str) -> tuple[Layout, bool]:
    """Return the order of the axes, and whether the first one is the batch."""
    if len(shape) == 4:
        return _find_channel_axis(shape, where), True
    if len(shape) == 2:
        return "flat", True
    if shape[2] == 1 and shape[0] in (1, None):
        return "column", True
    if isinstance(names[0], str) or not (shape[0] in IMAGE_CHANNELS or shape[2] in IMAGE_CHANNELS):
        return "without channels", True
    return _find_channel_axis([None, *shape], where), False


def _find_channel_axis(shape: Sequence[int | None], where: str) -> Layout:
    """Return the layout of four axes, of which the first is the batch."""
    is_last = find_layout(shape, where=where, prefers_last=False).is_channels_last
    return "channels last" if is_last else "channels first"
