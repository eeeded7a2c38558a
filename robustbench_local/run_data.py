"""Clean images that a run does not keep, read from its data where these are on this machine.

Only an image with the hash of its outcome is shown: other data under the same name are never mistaken for it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from robustbench_local.errors import DataError, RobustbenchError
from robustbench_local.reports.formatting.text import format_mebibytes, redact_private_data
from robustbench_local.store import RunStore
from robustbench_local.store.arrays import hash_image_array

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from robustbench_local.data.dataset import Dataset

MAX_BYTES = 1 << 30
"""Largest size of all images of a run in memory; of more, none are read."""
_BYTES_PER_VALUE = 4
_READABLE = ("signs", "folder:", "npz:", "torchvision:")
"""Beginnings of the sources that are read without running a file and without a network."""


class DataImages:
    """The images that a run was made on; they are read in a thread of their own, when they are asked for.

    Args:
        store: The open run.
    """

    def __init__(self, store: RunStore) -> None:
        self._entry = _read_entry(store)
        self._data: Dataset | None = None
        self._index: Mapping[str, int] = {}
        self._thread: threading.Thread | None = None
        self.source = str(redact_private_data(str(self._entry.get("source") or "")))
        self.problem = _find_obstacle(self._entry, store.read_meta("data") or {})
        self._folder = store.directory.resolve().parent

    @property
    def is_loading(self) -> bool:
        """Whether the images are being read at the moment."""
        return self._thread is not None and self._thread.is_alive()

    def start_loading(self, *, wait_seconds: float | None) -> None:
        """Begin to read the images, unless that is done, under way or impossible.

        Args:
            wait_seconds: How long to wait for the end; None: until it comes.
        """
        if self._thread is None and not self.problem:
            self._thread = threading.Thread(target=self._load_data, name="read-data", daemon=True)
            self._thread.start()
        if self._thread is not None:
            self._thread.join(wait_seconds)

    def load_image(self, image: str, expected_hash: str) -> npt.NDArray[np.generic]:
        """Load an image, (C, H, W) in [0, 1].

        Args:
            image: Its id.
            expected_hash: Its hash in the outcome.

        Raises:
            DataError: With the reason, if it cannot be read, is not read yet, or is another image.
        """
        if self._data is None:
            raise DataError(self.problem or "the images are being read")
        place = self._index.get(image)
        if place is None:
            raise DataError("the data on this machine do not have this image")
        pixels: npt.NDArray[np.generic] = self._data.images[place].numpy()
        if not expected_hash or hash_image_array(pixels) != expected_hash:
            raise DataError("the data on this machine have another image of this name")
        return pixels

    def _load_data(self) -> None:
        from robustbench_local.data.data_sources import load_dataset  # noqa: PLC0415 - it imports torch
        from robustbench_local.evaluation.grid.data_entries import DataEntry  # noqa: PLC0415

        try:
            given = {key: value for key, value in self._entry.items() if key != "seed"}
            options: dict[str, Any] = DataEntry.model_validate(given).model_dump(exclude={"seed", "download"})
            seed = int(self._entry["seed"] or 0)
            data = load_dataset(**options, seed=seed, download=False, base_folder=self._folder)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the data, the page says it
            what = error.what if isinstance(error, RobustbenchError) else f"{type(error).__name__}: {error}"
            self.problem = " ".join(str(redact_private_data(what)).split())[:300]
        else:
            self._index = {name: place for place, name in enumerate(data.ids)}
            self._data = data


def _read_entry(store: RunStore) -> dict[str, Any]:
    """Read the data entry of the run's grid, with the seed that holds for it."""
    grid = store.read_meta("grid")
    entry = grid.get("data") if isinstance(grid, dict) else None
    if not isinstance(entry, dict):
        return {}
    seed = entry.get("seed")
    return {**entry, "seed": store.read_meta("seed") if seed is None else seed}


def _find_obstacle(entry: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Find why the data cannot be read at all; empty if they can be tried."""
    source = entry.get("source")
    if not isinstance(source, str):
        return "the run does not say which data it was made on"
    if not source.startswith(_READABLE):
        return f"data of the kind {source.partition(':')[0]}: are not read here"
    shape, count = about.get("image_shape"), about.get("n")
    if isinstance(shape, list) and isinstance(count, int) and all(isinstance(side, int) for side in shape):
        size = count * _BYTES_PER_VALUE
        for side in shape:
            size *= side
        if size > MAX_BYTES:
            most = format_mebibytes(MAX_BYTES)
            return f"the images take {format_mebibytes(size)}, more than the {most} that are read here"
    return ""
