"""The adversarial examples of a bundle, and the clean images that they were made from, exact to the bit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors import numpy as safetensors

from robustbench_local.evidence_bundle.bundle_files import CLEAN_FOLDER, EXAMPLES_FOLDER, format_cell_name
from robustbench_local.evidence_bundle.check_results import BundleError
from robustbench_local.randomness import derive_seed
from robustbench_local.store import CellRecord, RunStore

Images = npt.NDArray[np.float32]
_CLEAN_FILE_BYTES = 1 << 28
"""Bytes of clean images in one file."""
_SELECTION = "examples of an evidence bundle"


@dataclass(frozen=True, kw_only=True)
class ExampleChoice:
    """Which of the stored examples go into a bundle."""

    count: int | None = None
    """Largest number of a cell; None: all that the run has stored."""
    seed: int = 0
    """Decides which, if there are more."""
    has_images: bool = True
    """Whether images are in the bundle at all; if not, only their hashes are."""


@dataclass(frozen=True, kw_only=True)
class BundledExamples:
    """The examples of one cell."""

    positions: tuple[int, ...]
    """Positions of the images in the cell."""
    adversarial: Images
    """(N, C, H, W), float32 in [0, 1]."""
    clean: Images
    """(N, C, H, W), float32 in [0, 1]."""


def hash_image_bytes(image: npt.NDArray[np.generic]) -> str:
    """Return the SHA-256 of an image's float32 values; it begins with the hash in the outcomes."""
    return hashlib.sha256(np.ascontiguousarray(image, dtype=np.float32).tobytes()).hexdigest()


def write_examples(store: RunStore, folder: Path, choice: ExampleChoice) -> list[dict[str, Any]]:
    """Write the chosen examples of all cells, each clean image once.

    Args:
        store: The run.
        folder: The folder of the bundle's files.
        choice: Which examples.

    Returns:
        One entry for each cell that stores images: how many there are, which were chosen and how, and, where
        images are left out, their hashes.

    Raises:
        DamagedError: If stored images were changed.
    """
    clean = _CleanImages(folder)
    entries = []
    for cell in store.read_cells():
        arrays = store.load_arrays(cell.key)
        if not arrays:
            continue
        chosen = _choose_rows(store, cell, arrays, choice)
        positions = [int(arrays["positions"][row]) for row in chosen]
        images = {row.position: row.image for row in store.read_outcomes_at(cell.key, positions)}
        original, adversarial = (
            np.ascontiguousarray(arrays[name][chosen], dtype=np.float32)
            for name in ("original", "adversarial")
        )
        name = f"{EXAMPLES_FOLDER}/{format_cell_name(cell.position, cell.key)}.safetensors"
        entries.append(
            {
                "cell": cell.key,
                "model": cell.model,
                "defense": cell.defense,
                "attack": cell.attack,
                "stored": len(arrays["positions"]),
                "included": len(chosen),
                "file": name if choice.has_images else None,
                "images": [
                    {
                        "position": position,
                        "image": images[position],
                        "clean_sha256": hash_image_bytes(before),
                        "adversarial_sha256": hash_image_bytes(after),
                    }
                    for position, before, after in zip(positions, original, adversarial, strict=True)
                ],
            }
        )
        if choice.has_images and positions:
            (folder / EXAMPLES_FOLDER).mkdir(exist_ok=True)
            content = {
                "positions": np.array(positions, dtype=np.int64),
                "adversarial": _pack_images(adversarial),
            }
            (folder / name).write_bytes(safetensors.save(content))
            clean.add(original)
    clean.write()
    return entries


def read_examples(
    folder: Path, cell: CellRecord, entry: Mapping[str, Any], clean: Mapping[str, Path]
) -> BundledExamples | None:
    """Read the examples of a cell, held against the list of the bundle.

    Args:
        folder: The folder of the bundle's files.
        cell: The cell.
        entry: Its entry in the list.
        clean: The file of each clean image by its hash, from `index_clean_images`.

    Returns:
        The examples; None if the bundle states that it has no images.

    Raises:
        BundleError: If an image is missing, or is another one than the list says.
    """
    if entry["file"] is None or not entry["images"]:
        return None
    name = f"{EXAMPLES_FOLDER}/{format_cell_name(cell.position, cell.key)}.safetensors"
    content = _load_tensors(folder / name)
    listed = entry["images"]
    positions = tuple(int(position) for position in content.get("positions", np.empty(0)).ravel())
    adversarial = content.get("adversarial", np.empty(0))
    if positions != tuple(row["position"] for row in listed) or len(adversarial) != len(listed):
        raise BundleError(f"{name} has other examples than the {len(listed)} that {cell.attack} lists")
    images = _unpack_images(adversarial)
    for row, image in zip(listed, images, strict=True):
        if hash_image_bytes(image) != row["adversarial_sha256"]:
            raise BundleError(f"the adversarial example of {row['image']!r} in {name} was changed")
    return BundledExamples(
        positions=positions,
        adversarial=images,
        clean=np.stack([_load_clean(clean, row["clean_sha256"], row["image"]) for row in listed]),
    )


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


class _CleanImages:
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
                self._waiting[name] = _pack_images(image)
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


def _choose_rows(
    store: RunStore, cell: CellRecord, arrays: Mapping[str, npt.NDArray[np.generic]], choice: ExampleChoice
) -> list[int]:
    """Return the chosen rows of a cell's arrays, by position; the seed and the image's id alone decide."""
    positions = [int(position) for position in arrays["positions"]]
    ids = {row.position: row.image for row in store.read_outcomes_at(cell.key, positions)}
    rows = [row for row, position in enumerate(positions) if position in ids]
    if choice.count is not None:
        rank = {row: derive_seed(_SELECTION, choice.seed, ids[positions[row]]) for row in rows}
        rows = sorted(rows, key=rank.__getitem__)[: choice.count]
    return sorted(rows, key=positions.__getitem__)


def _pack_images(images: Images) -> npt.NDArray[np.generic]:
    """Return images as 8-bit integers where that loses no bit, else as they are."""
    levels = np.round(images * 255).clip(0, 255).astype(np.uint8)
    return levels if np.array_equal(_unpack_images(levels), images) else images


def _unpack_images(images: npt.NDArray[np.generic]) -> Images:
    """Return images in [0, 1] from 8-bit integers; others as they are."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    return images.astype(np.float32)


def _load_tensors(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    name = f"{path.parent.name}/{path.name}"
    try:
        content: dict[str, npt.NDArray[np.generic]] = safetensors.load(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{name} is missing") from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{name} is no file of images ({error})") from error
    return content


def _load_clean(files: Mapping[str, Path], name: str, image: str) -> Images:
    if name not in files:
        raise BundleError(f"the clean image of {image!r} is missing")
    try:
        with safe_open(files[name], framework="numpy") as content:
            loaded = _unpack_images(content.get_tensor(name))
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise BundleError(f"the clean image of {image!r} cannot be read ({error})") from error
    if hash_image_bytes(loaded) != name:
        raise BundleError(f"the clean image of {image!r} was changed")
    return loaded
