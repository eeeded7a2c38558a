"""Uploaded images: decoded within limits, upright, and in the size that a model takes."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robustbench_local.data.decode import (
    IMAGE_FORMATS,
    BadImageError,
    DecodedImage,
    Pixels,
    decode_image,
)
from robustbench_local.data.image_files import find_image_format
from robustbench_local.errors import RobustbenchError
from robustbench_local.serving.problems import ProblemError

ALPHA_BACKGROUND = "white"
"""Background of transparent images; the answer says that it was used."""
LARGE_IMAGE_PIXELS = 16_000_000
"""Images above this are decoded one at a time: each may take a gigabyte."""
_large_image_lock = threading.Lock()


@dataclass(frozen=True)
class Upload:
    """An uploaded file."""

    name: str
    """Its name in messages: the position in the request, as a client's file names may be private."""
    content: bytes
    """The whole file."""


@dataclass(frozen=True)
class UploadedImage:
    """A decoded upload."""

    upload: Upload
    """The file."""
    pixels: Pixels
    """(H, W, C), uint8, or float32 in [0, 1] where the file has 16 bits."""
    notes: tuple[str, ...]
    """Conversions of the file's pixels."""


def decode_upload(upload: Upload, max_pixels: int) -> UploadedImage:
    """Decode an upload.

    Args:
        upload: The file.
        max_pixels: Largest width times height, checked before any pixel is decoded.

    Raises:
        ProblemError: 400 for an empty file, 413 for too many pixels, 415 for another format, 422 for a
            damaged file.
    """
    try:
        decoded = _decode_in_turn(upload, max_pixels)
    except BadImageError as error:
        raise _explain_bad_image(upload, error) from None
    except RobustbenchError as error:
        raise ProblemError(413, str(error)) from None
    return UploadedImage(upload, decoded.pixels, decoded.notes)


def _decode_in_turn(upload: Upload, max_pixels: int) -> DecodedImage:
    """Decode a file; files whose image is large wait for each other."""
    try:
        return decode_image(
            upload.content,
            where=upload.name,
            alpha=ALPHA_BACKGROUND,
            max_pixels=min(max_pixels, LARGE_IMAGE_PIXELS),
        )
    except RobustbenchError:
        if max_pixels <= LARGE_IMAGE_PIXELS:
            raise
    with _large_image_lock:
        return decode_image(upload.content, where=upload.name, alpha=ALPHA_BACKGROUND, max_pixels=max_pixels)


def _explain_bad_image(upload: Upload, error: BadImageError) -> ProblemError:
    """Explain a file that cannot be decoded: it is empty, of another format, or damaged."""
    if not upload.content:
        return ProblemError(400, f"{upload.name}: the file is empty; send an image")
    kind = find_image_format(upload.content[:16])
    if kind in IMAGE_FORMATS:
        return ProblemError(422, f"{upload.name}: {error}; send the original file again")
    what = "the file is no image" if kind is None else f"{kind} is not supported"
    formats = f"{', '.join(IMAGE_FORMATS[:-1])} or {IMAGE_FORMATS[-1]}"
    return ProblemError(415, f"{upload.name}: {what}; send {formats}")


def fit_channels(pixels: Pixels, channels: int | None) -> tuple[Pixels, tuple[str, ...]]:
    """Give an image the number of channels that a model takes.

    Args:
        pixels: (H, W, 1) or (H, W, 3).
        channels: 1 or 3; None for any, which means 3.

    Returns:
        The image, and a note if it was converted.
    """
    wanted = channels or 3
    if pixels.shape[2] == wanted:
        return pixels, ()
    if wanted == 3:
        return np.repeat(pixels, 3, axis=2), ("gray, repeated in three channels",)
    # the weights of ITU-R BT.601, as Pillow's and torchvision's conversion to gray have
    gray = (pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    on_grid = np.rint(gray) if pixels.dtype == np.uint8 else gray
    return on_grid.astype(pixels.dtype), ("color, converted to gray",)


def convert_to_tensor(pixels: Pixels) -> Tensor:
    """Convert pixels to an image (1, C, H, W), float32 in [0, 1]; 16-bit images go to the 8-bit grid."""
    levels = pixels if pixels.dtype == np.uint8 else np.rint(pixels * 255).astype(np.uint8)
    return torch.tensor(levels).permute(2, 0, 1)[None].float() / 255
