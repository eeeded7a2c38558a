"""Adversarial examples as safetensors files, a chunk each: ``adversarial/<key>/<chunk>.safetensors``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from robustbench_local.errors import InvariantError, StorageError
from robustbench_local.store.files import make_directory, storage_errors, write_atomically

FOLDER = "adversarial"
_KEY_LENGTH = 16

Arrays = Mapping[str, npt.NDArray[np.generic]]


def save(directory: Path, cell_key: str, chunk: int, arrays: Arrays) -> None:
    """Write one chunk, in one step that survives a crash. See ``RunStore.save_arrays``."""
    folder = _folder(directory, cell_key)
    make_directory(folder)
    content = safetensors.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    write_atomically(folder / f"{chunk:05d}.safetensors", content)


def load(directory: Path, cell_key: str) -> dict[str, npt.NDArray[np.generic]]:
    """Read all chunks of a cell and join them along their first axis. See ``RunStore.load_arrays``.

    Raises:
        StorageError: A file is damaged.
        InvariantError: The chunks do not fit together.
    """
    files = sorted(_folder(directory, cell_key).glob("*.safetensors"), key=lambda file: int(file.stem))
    chunks = [_read(file) for file in files]
    if not chunks:
        return {}
    forms = [{name: (array.dtype, array.shape[1:]) for name, array in chunk.items()} for chunk in chunks]
    if any(form != forms[0] for form in forms):
        raise InvariantError("the chunks do not fit together", where=str(files[0].parent))
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _read(file: Path) -> dict[str, npt.NDArray[np.generic]]:
    try:
        with storage_errors(file):
            content = file.read_bytes()
        arrays: dict[str, npt.NDArray[np.generic]] = safetensors.load(content)
    except SafetensorError as error:
        raise StorageError(f"the file is damaged ({error})", where=str(file)) from error
    return arrays


def _folder(directory: Path, cell_key: str) -> Path:
    # Keys are hex digests; anything else could lead out of the run directory.
    if not re.fullmatch(r"[\w-]+", cell_key, re.ASCII):
        raise InvariantError(f"not a cell key: {cell_key!r}")
    return directory / FOLDER / cell_key[:_KEY_LENGTH]
