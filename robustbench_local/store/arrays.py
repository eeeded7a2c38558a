"""Adversarial examples as safetensors files, one per chunk: ``adversarial/<key>/<chunk>.safetensors``.

The functions import numpy and safetensors when they read or write arrays: who reads only ``run.db`` does not
wait for them.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_local.config.user_files import read_user_file
from robustbench_local.errors import DamagedError, IncompleteError, InvariantError
from robustbench_local.store.atomic_files import make_directory_in, write_atomically

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Arrays = Mapping[str, npt.NDArray[np.generic]]

ARRAY_FOLDER = "adversarial"
RECOMPUTE_REMEDY = "restore it from a copy, or compute the cell again with rbl run ... --recompute-damaged"
_KEY_LENGTH = 16

Hashes = Mapping[int, tuple[str, str]]
"""Position -> hashes of the original and the adversarial image in the outcome."""


class UncommittedChunks:
    """Files that are written, but whose digests are not committed yet."""

    def __init__(self) -> None:
        self._digests: dict[tuple[str, int], str] = {}

    def add(self, cell_key: str, chunk: int, digest: str) -> None:
        """Add a file that was written."""
        self._digests[cell_key, chunk] = digest

    def list_chunks(self, cell_key: str) -> list[tuple[str, int, str]]:
        """Return cell, chunk and digest of a cell's files."""
        return [(key, chunk, digest) for (key, chunk), digest in self._digests.items() if key == cell_key]

    def list_cell_keys(self) -> list[str]:
        """Return the keys of the cells with such files."""
        return list(dict.fromkeys(key for key, _ in self._digests))

    def remove_cell(self, cell_key: str) -> None:
        """Remove a cell's files, which are committed now."""
        self._digests = {key: digest for key, digest in self._digests.items() if key[0] != cell_key}


def save_chunk(directory: Path, cell_key: str, chunk: int, arrays: Arrays) -> str:
    """Write one chunk in one step that survives a crash, and return the digest of the file.

    See ``RunStore.save_arrays``.
    """
    import numpy as np  # noqa: PLC0415 - see the module
    from safetensors import numpy as safetensors  # noqa: PLC0415 - see the module

    folder = _get_cell_folder(directory, cell_key)
    make_directory_in(make_directory_in(directory, ARRAY_FOLDER), folder.name)
    content = safetensors.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    write_atomically(_get_chunk_path(folder, chunk), content)
    return hashlib.sha256(content).hexdigest()


def load_chunks(
    directory: Path, cell_key: str, digests: Mapping[int, str] | None, hashes: Hashes
) -> dict[str, npt.NDArray[np.generic]]:
    """Read the chunks of a cell and join them along their first axis. See ``RunStore.load_arrays``.

    Args:
        directory: The run directory.
        cell_key: The cell.
        digests: Chunk -> digest of its file; None for a run without digests: all existing files are read.
        hashes: The image hashes in the cell's outcomes.

    Raises:
        DamagedError: A file is missing or was changed, or an image does not match its outcome.
        InvariantError: The chunks do not fit together.
    """
    folder = _get_cell_folder(directory, cell_key)
    numbers = _list_chunks(folder) if digests is None else sorted(digests)
    chunks = []
    for number in numbers:
        file = _get_chunk_path(folder, number)
        chunk = _read_chunk(file, None if digests is None else digests[number])
        _check_images(chunk, hashes, file)
        chunks.append(chunk)
    if not chunks:
        return {}
    forms = [{name: (array.dtype, array.shape[1:]) for name, array in chunk.items()} for chunk in chunks]
    if any(form != forms[0] for form in forms):
        raise InvariantError("the chunks do not fit together", where=str(folder))
    import numpy as np  # noqa: PLC0415 - see the module

    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def load_cell_arrays(
    directory: Path,
    connection: sqlite3.Connection,
    cell_key: str,
    *,
    has_all_digests: bool,
    uncommitted: Mapping[int, str] | None = None,
) -> dict[str, npt.NDArray[np.generic]]:
    """Load the arrays of a cell that the database knows; errors as in `load_chunks`.

    Args:
        directory: The run directory.
        connection: Its database.
        cell_key: The cell.
        has_all_digests: The run has digests from its start; if not, files without a digest are read too.
        uncommitted: Chunk -> digest of files that are written but not committed.
    """
    digests: dict[int, str] | None = {
        **dict(connection.execute("SELECT chunk, digest FROM arrays WHERE cell = ?", (cell_key,))),
        **(uncommitted or {}),
    }
    if not digests and not has_all_digests:
        digests = None
    if not (_list_chunks(_get_cell_folder(directory, cell_key)) if digests is None else digests):
        return {}  # a large run without images has millions of outcomes
    query = "SELECT position, original_hash, adversarial_hash FROM outcomes WHERE cell = ?"
    hashes = {position: (before, after) for position, before, after in connection.execute(query, (cell_key,))}
    return load_chunks(directory, cell_key, digests, hashes)


def remove_chunks(directory: Path, cell_key: str) -> None:
    """Delete the chunks of a cell that will be computed again."""
    folder = _get_cell_folder(directory, cell_key)
    for number in _list_chunks(folder):
        _get_chunk_path(folder, number).unlink(missing_ok=True)


def get_chunk_file(directory: Path, cell_key: str, chunk: int) -> Path:
    """Return the path of a chunk of a cell's arrays, whether it exists or not."""
    return _get_chunk_path(_get_cell_folder(directory, cell_key), chunk)


def hash_image_array(image: npt.NDArray[np.generic]) -> str:
    """Return the first 16 hex digits of the SHA-256 of an image's fp32 bytes, as stored in outcomes."""
    import numpy as np  # noqa: PLC0415 - see the module

    return hashlib.sha256(np.ascontiguousarray(image, dtype=np.float32).tobytes()).hexdigest()[:16]


def _read_chunk(file: Path, digest: str | None) -> dict[str, npt.NDArray[np.generic]]:
    from safetensors import SafetensorError  # noqa: PLC0415 - see the module
    from safetensors import numpy as safetensors  # noqa: PLC0415 - see the module

    if file.exists() and not os.access(file, os.R_OK):  # what cannot be looked at is not known to be damaged
        raise IncompleteError("cannot be read: Permission denied", where=str(file), remedy="make it readable")
    content = read_user_file(file, error=DamagedError, remedy=RECOMPUTE_REMEDY)
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise DamagedError(
            "the file has changed since it was written", where=str(file), remedy=RECOMPUTE_REMEDY
        )
    try:
        arrays: dict[str, npt.NDArray[np.generic]] = safetensors.load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        what = f"the file is damaged ({error})"
        raise DamagedError(what, where=str(file), remedy=RECOMPUTE_REMEDY) from error
    return arrays


def _check_images(chunk: Arrays, hashes: Hashes, file: Path) -> None:
    """Refuse images that do not match the cell's outcomes; positions without an outcome are ignored."""
    import numpy as np  # noqa: PLC0415 - see the module

    positions = chunk.get("positions", np.empty(0))
    if positions.ndim != 1 or (
        "positions" in chunk and any(len(array) != len(positions) for array in chunk.values())
    ):
        raise DamagedError("its arrays have different lengths", where=str(file), remedy=RECOMPUTE_REMEDY)
    for row, position in enumerate(positions.tolist()):
        for name, expected_hash in zip(("original", "adversarial"), hashes.get(position, ()), strict=False):
            if expected_hash and name in chunk and hash_image_array(chunk[name][row]) != expected_hash:
                what = f"the {name} image at position {position} is not the one of its outcome"
                raise DamagedError(what, where=str(file), remedy=RECOMPUTE_REMEDY)


def _list_chunks(folder: Path) -> list[int]:
    return sorted(int(file.stem) for file in folder.glob("*.safetensors") if file.stem.isdecimal())


def _get_chunk_path(folder: Path, chunk: int) -> Path:
    return folder / f"{chunk:05d}.safetensors"


def _get_cell_folder(directory: Path, cell_key: str) -> Path:
    # Keys are hex digests; anything else could lead out of the run directory.
    if not re.fullmatch(r"[\w-]+", cell_key, re.ASCII):
        raise InvariantError(f"not a cell key: {cell_key!r}")
    return directory / ARRAY_FOLDER / cell_key[:_KEY_LENGTH]
