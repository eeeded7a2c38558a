"""Rendered traffic signs: the embedded data set, with GTSRB's labels and names.

No file is read and nothing is downloaded: each sign is drawn from geometry, placed before a background, lit
and photographed by a random camera. An image depends on its own seed alone - (seed, split, class, index) -
so ``limit``, order and the size of the set never change it. ``python -m
robustbench_local.data.rendered_signs.sign_dataset FILE.png`` writes a contact sheet.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustbench_local.data.dataset import Dataset
from robustbench_local.data.gtsrb import CLASS_NAMES
from robustbench_local.data.rendered_signs.sign_camera import photograph_sign
from robustbench_local.data.rendered_signs.sign_shapes import DRAWN_CLASSES, render_front_view
from robustbench_local.errors import DataError

#: The order is part of every image's seed: append only.
SPLITS: tuple[str, ...] = ("train", "validation", "test")
#: Description of the masks for reports.
SIGN_SURFACE = "the sign inside the outline that it is drawn with"
_MAX_SIZE_PIXELS = 1024


def load_signs(
    *,
    split: str = "test",
    per_class: int = 40,
    limit: int | None = None,
    seed: int = 0,
    size: int = 32,
    classes: Sequence[int] = DRAWN_CLASSES,
) -> Dataset:
    """Render a split of the signs.

    Args:
        split: One of ``SPLITS``, which share no images.
        per_class: Images of each class.
        limit: Number of images, spread evenly over the classes; the first of each class.
        seed: At least 0; another seed gives other photographs of the same classes.
        size: Side of the square images in pixels, 16 to 1024.
        classes: GTSRB ids, among ``DRAWN_CLASSES``; only these are rendered.

    Returns:
        Images (N, 3, size, size) on the 8-bit grid, labels as in GTSRB (with gaps), all 43 class names,
        ids such as ``signs/test/14/00007``, and each sign's outline in ``masks``; ordered by index, then
        by class.

    Raises:
        DataError: If an argument is out of range.
    """
    _check_arguments(split, per_class, limit, seed, size)
    wanted = sorted({_check_drawn_class(label) for label in classes})
    chosen = [(label, index) for index in range(per_class) for label in wanted][:limit]
    images = torch.empty((len(chosen), 3, size, size), dtype=torch.uint8)
    masks = torch.empty((len(chosen), 1, size, size), dtype=torch.bool)
    for row, (label, index) in enumerate(chosen):
        rng = np.random.default_rng([seed, SPLITS.index(split), label, index])
        picture, mask = photograph_sign(label, size, rng)
        images[row] = torch.from_numpy(picture).permute(2, 0, 1)
        masks[row, 0] = torch.from_numpy(mask)
    return Dataset(
        images=images.float() / 255,
        labels=torch.tensor([label for label, _ in chosen], dtype=torch.int64),
        ids=tuple(f"signs/{split}/{label:02d}/{index:05d}" for label, index in chosen),
        class_names=CLASS_NAMES,
        name="signs",
        masks=masks,
        surface=SIGN_SURFACE,
    )


def _check_arguments(split: str, per_class: int, limit: int | None, seed: int, size: int) -> None:
    if split not in SPLITS:
        raise DataError(
            f"there is no split {split!r}", where="signs", remedy=f"use one of {', '.join(SPLITS)}"
        )
    if per_class < 1 or (limit is not None and limit < 1):
        raise DataError(f"per_class {per_class}, limit {limit}: nothing to render", where="signs")
    if seed < 0:
        raise DataError(f"seed {seed} is negative", where="signs", remedy="use 0 or more")
    if not 16 <= size <= _MAX_SIZE_PIXELS:
        raise DataError(f"size {size} is outside 16 to {_MAX_SIZE_PIXELS} pixels", where="signs")


def _check_drawn_class(label: int) -> int:
    if label not in DRAWN_CLASSES:
        known = ", ".join(map(str, DRAWN_CLASSES))
        raise DataError(f"class {label} is not drawn", where="signs", remedy=f"use one of {known}")
    return label


def render_clean_sign(label: int, size: int = 32) -> tuple[Tensor, Tensor]:
    """Render one sign from the front in even light, as the basis for designing a sticker.

    Args:
        label: GTSRB id, one of ``DRAWN_CLASSES``.
        size: Side in pixels.

    Returns:
        The picture, (3, size, size) in [0, 1], black outside the sign, and its outline, bool
        (1, size, size).

    Raises:
        DataError: If that class is not drawn.
    """
    view = render_front_view(_check_drawn_class(label), size)
    return torch.tensor(view.rgb).permute(2, 0, 1), torch.tensor(view.alpha >= 0.5)[None]


def write_contact_sheet(path: Path, *, columns: int = 12, size: int = 32) -> None:
    """Write a PNG with ``columns`` test images of each class, one class per row."""
    data = load_signs(split="test", per_class=columns, size=size)
    pixels = (data.images * 255).byte().permute(0, 2, 3, 1).numpy()
    grid = pixels.reshape(columns, len(DRAWN_CLASSES), size, size, 3).transpose(1, 2, 0, 3, 4)
    sheet = Image.fromarray(grid.reshape(len(DRAWN_CLASSES) * size, columns * size, 3))
    sheet.save(path, optimize=True)


def main(arguments: Sequence[str]) -> int:
    """Write the contact sheet to the file named on the command line."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m robustbench_local.data.rendered_signs.sign_dataset FILE.png\n")
        return 2
    write_contact_sheet(Path(arguments[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
