"""Made-up image files and folders for the tests of data sources."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def build_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    """Random bytes of this shape."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save_picture(
    path: Path, *, mode: str = "RGB", size: tuple[int, int] = (12, 10), seed: int = 0, **options
) -> Path:
    """Write a random image; ``size`` is (width, height) as Pillow has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = build_pixels(size[1], size[0], Image.getmodebands(mode), seed=seed).tobytes()
    Image.frombytes(mode, size, content).save(path, **options)
    return path


def save_folder(root: Path, classes: Mapping[str, int], **options) -> Path:
    """Write a class folder with this many different PNG images for each class."""
    for name, count in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            seed = zlib.crc32(f"{name}/{index}".encode())
            save_picture(root / name / f"{index}.png", **({"seed": seed} | options))
    return root
