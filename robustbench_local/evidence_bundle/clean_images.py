"""Images in the files of a bundle: clean ones once each by their hash, all of them exact to the bit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors import numpy as safetensors

from robustbench_local.evidence_bundle.bundle_files import CLEAN_FOLDER
from robustbench_local.evidence_bundle.check_results import BundleError

Images = npt.NDArray[np.float32]
_CLEAN_FILE_BYTES = 1 << 28
"""Bytes of clean images in one file."""


class CleanImages:
    """Clean images, each once by its hash, in files of a limited size."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / CLEAN_FOLDER
        self._known: set[str] = set()
        self._waiting: dict[str, npt.NDArray[np.generic]] = {}
        self._file_count = 0

    def add(self, images: Images) -> None:
        """Add the images that are not there yet."""
        for image in images:
            name = hash_image_bytes(image)
            if name not in self._known:
                self._known.add(name)
                self._waiting[name] = pack_images(image)
        if sum(image.nbytes for image in self._waiting.values()) >= _CLEAN_FILE_BYTES:
            self.write()

    def write(self) -> None:
        """Write the images that wait into a file."""
        if self._waiting:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file_count += 1
            path = self._folder / f"{self._file_count:05d}.safetensors"
            path.write_bytes(safetensors.save(dict(sorted(self._waiting.items()))))
            self._waiting = {}


def hash_image_bytes(image: npt.NDArray[np.generic]) -> str:
    """Return the SHA-256 of an image's float32 values; it begins with the hash in the outcomes."""
    return hashlib.sha256(np.ascontiguousarray(image, dtype=np.float32).tobytes()).hexdigest()


def index_clean_images(folder: Path) -> dict[str, Path]:
    """Return the file of each clean image by its hash.

    Raises:
        BundleError: If a file is damaged.
    """
    files: dict[str, Path] = {}
    for path in sorted((folder / CLEAN_FOLDER).glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as content:
                files |= dict.fromkeys(content.keys(), path)
        except (SafetensorError, OSError, ValueError) as error:
            raise BundleError(f"clean/{path.name} is no file of images ({error})") from error
    return files


def load_clean_image(files: Mapping[str, Path], name: str, image: str) -> Images:
    """Load a clean image.

    Args:
        files: From `index_clean_images`.
        name: Its hash.
        image: Its id, for messages.

    Raises:
        BundleError: If it is missing or has another hash.
    """
    if name not in files:
        raise BundleError(f"the clean image of {image!r} is missing")
    try:
        with safe_open(files[name], framework="numpy") as content:
            loaded = unpack_images(content.get_tensor(name))
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise BundleError(f"the clean image of {image!r} cannot be read ({error})") from error
    if hash_image_bytes(loaded) != name:
        raise BundleError(f"the clean image of {image!r} was changed")
    return loaded


def pack_images(images: Images) -> npt.NDArray[np.generic]:
    """Return images as 8-bit integers where that loses no bit, else as they are."""
    levels = np.round(images * 255).clip(0, 255).astype(np.uint8)
    return levels if np.array_equal(unpack_images(levels), images) else images


def unpack_images(images: npt.NDArray[np.generic]) -> Images:
    """Return images in [0, 1] from 8-bit integers; others as they are."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    return images.astype(np.float32)


def load_tensors(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    """Load a file of arrays.

    Raises:
        BundleError: If it is missing or damaged.
    """
    name = f"{path.parent.name}/{path.name}"
    try:
        content: dict[str, npt.NDArray[np.generic]] = safetensors.load(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{name} is missing") from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{name} is no file of images ({error})") from error
    return content
