"""Single stored images of a cell, read without the rest of its files, and checked against their outcome."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from robustbench_local.config.user_files import check_user_file
from robustbench_local.errors import DamagedError, RefusedError
from robustbench_local.store.arrays import RECOMPUTE_REMEDY, get_chunk_file, hash_image_array

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PAIR_NAMES = ("original", "adversarial")
"""Names of the arrays of the clean and the adversarial image."""


class StoredRow(NamedTuple):
    """The place of a stored image."""

    chunk: int
    """Number of the file."""
    row: int
    """Row in its arrays."""


def list_stored_rows(directory: Path, cell_key: str, chunks: Iterable[int]) -> dict[int, StoredRow]:
    """Return the position and the place of each stored image of a cell.

    Args:
        directory: The run directory.
        cell_key: The cell.
        chunks: The numbers of its files.

    Raises:
        DamagedError: A file is missing or damaged.
        RefusedError: A file is not inside the run directory.
    """
    places: dict[int, StoredRow] = {}
    for chunk in chunks:
        file = _check_file(directory, cell_key, chunk)
        positions = _read_row(file, ("positions",), None).get("positions")
        if positions is not None:
            for row, position in enumerate(positions.reshape(-1).tolist()):
                places[int(position)] = StoredRow(chunk, row)
    return places


def load_stored_pair(
    directory: Path, cell_key: str, place: StoredRow, hashes: tuple[str, str]
) -> Mapping[str, npt.NDArray[np.generic]]:
    """Load the clean and the adversarial image of a place, (C, H, W) each.

    Args:
        directory: The run directory.
        cell_key: The cell.
        place: The place.
        hashes: The hashes of the two images in the outcome; empty where it has none.

    Raises:
        DamagedError: The file is missing or damaged, or an image is not the one of the outcome.
        RefusedError: The file is not inside the run directory.
    """
    file = _check_file(directory, cell_key, place.chunk)
    pair = _read_row(file, PAIR_NAMES, place.row)
    for name, expected in zip(PAIR_NAMES, hashes, strict=True):
        if name in pair and expected and hash_image_array(pair[name]) != expected:
            what = f"the stored {name} image is not the one of its outcome"
            raise DamagedError(what, where=str(file), remedy=RECOMPUTE_REMEDY)
    return pair


def _check_file(directory: Path, cell_key: str, chunk: int) -> Path:
    """Return the file of a chunk, a regular file inside the run directory."""
    file = get_chunk_file(directory, cell_key, chunk)
    if not file.resolve().is_relative_to(directory.resolve()):
        raise RefusedError("leads out of the run directory by a symbolic link", where=str(file))
    check_user_file(file, error=DamagedError)
    return file


def _read_row(file: Path, names: Iterable[str], row: int | None) -> Mapping[str, npt.NDArray[np.generic]]:
    """Read one row of some arrays of a file, or all rows; arrays that it lacks are left out."""
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - as in arrays.py

    try:
        with safe_open(file, framework="np") as tensors:
            present = set(tensors.keys())
            return {
                name: tensors.get_tensor(name) if row is None else tensors.get_slice(name)[row]
                for name in names
                if name in present
            }
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
        what = f"the file is damaged ({error})"
        raise DamagedError(what, where=str(file), remedy=RECOMPUTE_REMEDY) from error
