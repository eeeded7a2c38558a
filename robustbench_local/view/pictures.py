"""Pictures of an image: clean, under attack, and the amplified difference, as PNG."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Literal

import numpy as np
from PIL import Image

from robustbench_local.errors import DataError
from robustbench_local.reports.analysis.example_images import (
    FloatImage,
    choose_amplification,
    convert_to_rgb,
)
from robustbench_local.store import OutcomeRecord
from robustbench_local.store.image_rows import load_stored_pair
from robustbench_local.view.run_images import CellImages, RunImages

PictureKind = Literal["clean", "attacked", "difference"]
PICTURE_KINDS: tuple[PictureKind, ...] = ("clean", "attacked", "difference")
MAX_SIDE_PIXELS = 1024
"""Longer side of a picture; larger ones are scaled down."""
_MIDDLE_GRAY = 0.5

LoadClean = Callable[[OutcomeRecord], "np.ndarray[tuple[int, ...], np.dtype[np.generic]]"]
"""Loads a clean image that the run does not keep, (C, H, W); raises `DataError` if it cannot."""


class PicturePair:
    """A clean image and, where the run keeps it, its adversarial example.

    Args:
        clean: (H, W, 3) in [0, 1].
        attacked: The same; None if it is not kept.
    """

    def __init__(self, clean: FloatImage, attacked: FloatImage | None) -> None:
        self.clean, self.attacked = clean, attacked

    @property
    def amplification(self) -> int:
        """Factor of the change in the picture of the difference."""
        return 1 if self.attacked is None else choose_amplification([(self.clean, self.attacked)])

    def encode(self, kind: PictureKind) -> bytes:
        """Encode a picture as PNG.

        Raises:
            DataError: If the adversarial example is not kept.
        """
        if kind == "clean":
            return encode_picture(self.clean)
        if self.attacked is None:
            raise DataError("the run does not keep this adversarial example")
        if kind == "attacked":
            return encode_picture(self.attacked)
        change = self.amplification * (self.attacked - self.clean)
        return encode_picture(np.clip(_MIDDLE_GRAY + change, 0, 1).astype(np.float32))


def load_pair(
    images: RunImages, cell: CellImages, outcome: OutcomeRecord, load_clean: LoadClean | None
) -> PicturePair:
    """Load the pictures of an image in a cell.

    Args:
        images: The images of the run.
        cell: The cell.
        outcome: The outcome of the image.
        load_clean: Loads the clean image from the data; None: only what the run keeps is shown.

    Raises:
        DamagedError: If the stored images are damaged.
        DataError: If the clean image is neither kept nor in the data.
    """
    place = images.list_stored(cell).get(outcome.position)
    if place is not None:
        hashes = (outcome.original_hash, outcome.adversarial_hash)
        pair = load_stored_pair(images.store.directory, cell.record.key, place, hashes)
        if "original" in pair:
            attacked = convert_to_rgb(pair["adversarial"]) if "adversarial" in pair else None
            return PicturePair(convert_to_rgb(pair["original"]), attacked)
    if load_clean is None:
        raise DataError("the run does not keep this image")
    return PicturePair(convert_to_rgb(load_clean(outcome)), None)


def encode_picture(pixels: FloatImage) -> bytes:
    """Encode a picture, (H, W, 3) in [0, 1], as PNG."""
    picture = Image.fromarray(np.round(pixels * 255).astype(np.uint8))
    picture.thumbnail((MAX_SIDE_PIXELS, MAX_SIDE_PIXELS), Image.Resampling.BOX)
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return content.getvalue()
