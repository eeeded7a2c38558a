"""The adversarial examples of a bundle, and the clean images that they were made from, exact to the bit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import numpy as safetensors

from robustbench_local.evidence_bundle.bundle_files import EXAMPLES_FOLDER, format_cell_name
from robustbench_local.evidence_bundle.check_results import BundleError
from robustbench_local.evidence_bundle.clean_images import (
    CleanImages,
    Images,
    hash_image_bytes,
    load_clean_image,
    load_tensors,
    pack_images,
    unpack_images,
)
from robustbench_local.randomness import derive_seed
from robustbench_local.store import CellRecord, RunStore

PHOTOGRAPH_ARRAYS = ("photographs", "photograph_numbers", "frames", "frame_numbers")
"""What the run stores of the camera's images of a sign: the images, and which views they are."""
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
    photographs: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict)
    """Of signs with stickers, `PHOTOGRAPH_ARRAYS`, (N, V, ...) each; else empty."""


def write_examples(
    store: RunStore, folder: Path, choice: ExampleChoice, clean: CleanImages
) -> list[dict[str, Any]]:
    """Write the chosen examples of all cells.

    Args:
        store: The run.
        folder: The folder of the bundle's files.
        choice: Which examples.
        clean: Receives the clean images.

    Returns:
        One entry for each cell that stores images: how many there are, which were chosen and how, and, where
        images are left out, their hashes.

    Raises:
        DamagedError: If stored images were changed.
    """
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
        photographs = {name: arrays[name][chosen] for name in PHOTOGRAPH_ARRAYS if name in arrays}
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
                    | _hash_photographs(photographs, row)
                    for row, (position, before, after) in enumerate(
                        zip(positions, original, adversarial, strict=True)
                    )
                ],
            }
        )
        if choice.has_images and positions:
            (folder / EXAMPLES_FOLDER).mkdir(exist_ok=True)
            content = {
                "positions": np.array(positions, dtype=np.int64),
                "adversarial": pack_images(adversarial),
                **{name: np.ascontiguousarray(values) for name, values in photographs.items()},
            }
            (folder / name).write_bytes(safetensors.save(content))
            clean.add(original)
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
    content = load_tensors(folder / name)
    listed = entry["images"]
    positions = tuple(int(position) for position in content.get("positions", np.empty(0)).ravel())
    adversarial = content.get("adversarial", np.empty(0))
    if positions != tuple(row["position"] for row in listed) or len(adversarial) != len(listed):
        raise BundleError(f"{name} has other examples than the {len(listed)} that {cell.attack} lists")
    images = unpack_images(adversarial)
    for row, image in zip(listed, images, strict=True):
        if hash_image_bytes(image) != row["adversarial_sha256"]:
            raise BundleError(f"the adversarial example of {row['image']!r} in {name} was changed")
    photographs = {name: content[name] for name in PHOTOGRAPH_ARRAYS if name in content}
    _check_photographs(photographs, len(listed), name)
    for number, row in enumerate(listed):
        stated = {key: row[key] for key in row if key == "photographs_sha256"}
        if _hash_photographs(photographs, number) != stated:
            raise BundleError(f"the photographs of {row['image']!r} in {name} were changed")
    return BundledExamples(
        positions=positions,
        photographs=photographs,
        adversarial=images,
        clean=np.stack([load_clean_image(clean, row["clean_sha256"], row["image"]) for row in listed]),
    )


def _check_photographs(photographs: Mapping[str, npt.NDArray[np.generic]], count: int, name: str) -> None:
    """Check the form of the photographs of some signs.

    Raises:
        BundleError: If they are of other signs, or no 8-bit images with their numbers.
    """
    for key, values in photographs.items():
        is_image = key in {"photographs", "frames"}
        form = (
            (values.dtype == np.uint8, values.ndim) if is_image else (values.dtype.kind == "i", values.ndim)
        )
        if len(values) != count or form != (True, 5 if is_image else 2):
            raise BundleError(f"{name} has photographs of another form than signs have")
    for images, numbers in (PHOTOGRAPH_ARRAYS[:2], PHOTOGRAPH_ARRAYS[2:]):
        shapes = [photographs[key].shape[:2] for key in (images, numbers) if key in photographs]
        if len(shapes) == 1 or len(set(shapes)) > 1:
            raise BundleError(f"{name} has photographs without their numbers")


def _hash_photographs(photographs: Mapping[str, npt.NDArray[np.generic]], row: int) -> dict[str, str]:
    """Return the entry with the hash of a sign's photographs and their numbers; empty without any."""
    if not photographs:
        return {}
    hasher = hashlib.sha256()
    for name in PHOTOGRAPH_ARRAYS:
        if name in photographs:
            values = np.ascontiguousarray(photographs[name][row])
            hasher.update(f"{name}{values.dtype.str}{values.shape}".encode())
            hasher.update(values.tobytes())
    return {"photographs_sha256": hasher.hexdigest()}


def rank_image(seed: int, image: str) -> int:
    """Return a number by which images are chosen: the seed and the image's id alone decide."""
    return derive_seed(_SELECTION, seed, image)


def _choose_rows(
    store: RunStore, cell: CellRecord, arrays: Mapping[str, npt.NDArray[np.generic]], choice: ExampleChoice
) -> list[int]:
    """Return the chosen rows of a cell's arrays, by position; the seed and the image's id alone decide."""
    positions = [int(position) for position in arrays["positions"]]
    ids = {row.position: row.image for row in store.read_outcomes_at(cell.key, positions)}
    rows = [row for row, position in enumerate(positions) if position in ids]
    if choice.count is not None:
        rank = {row: rank_image(choice.seed, ids[positions[row]]) for row in rows}
        rows = sorted(rows, key=rank.__getitem__)[: choice.count]
    return sorted(rows, key=positions.__getitem__)
