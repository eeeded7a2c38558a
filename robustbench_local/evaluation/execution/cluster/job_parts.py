"""The parts that a cell's work travels in: models once, images in blocks, and the rest, which is small.

A part goes into the cluster's object store once. Every node that needs it fetches it once, and all its
processes read the same copy.
"""

from __future__ import annotations

import io
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.foreign_errors import extract_first_line
from robustbench_local.classifier.fresh_copy import FreshCopies
from robustbench_local.classifier.user_modules import is_user_path
from robustbench_local.data.dataset import Dataset
from robustbench_local.errors import ModelError
from robustbench_local.evaluation.harness.job import Job

BLOCK_BYTES = 32 << 20
"""Approximate size of a block of images."""
MAX_KEPT_BYTES = 2 << 30
"""Size of the blocks that stay in the object store; those used longest ago leave it, and are put again when a
chunk needs them. Ray keeps what a task that runs has been given."""
DATA_PART, CLASSIFIER_PART = "data", "classifier"
"""Kinds of parts that a pickle only names."""

Put = Callable[[Any], Any]
"""Puts a value into the object store and returns its reference."""


@dataclass(frozen=True)
class PackedImages:
    """Some images of a data set: the blocks that they are in, and their rows in each."""

    blocks: tuple[Any, ...]
    """References of `pack_block`."""
    places: tuple[tuple[int, int], ...]
    """The block of each image, as an index here, and its row there."""


@dataclass(frozen=True)
class PackedJob:
    """A job without its images."""

    content: Any
    """Reference of its pickle."""
    classifiers: dict[str, Any]
    """References of the pickles of its models, by name; a model may name others."""
    image_count: int
    """Number of images of the cell."""


class JobPacker:
    """Packs jobs for other processes; models and images that several jobs share are put once.

    Args:
        put: Puts a value into the object store.
        cloudpickle: Ray's module of that name, which pickles code by value.
        rebuild: Describes how a node loads a model again that cannot be pickled: a pickle of a function that
            returns the classifier; None where there is no way.
    """

    def __init__(
        self, put: Put, cloudpickle: Any, rebuild: Callable[[Classifier], bytes | None] = lambda _: None
    ) -> None:
        self._put, self._cloudpickle, self._rebuild = put, cloudpickle, rebuild
        self._names: dict[int, str] = {}
        self._classifiers: dict[str, Any] = {}
        self._blocks: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._alive: list[object] = []  # keeps identities from being used again
        self._block_sizes: dict[int, int] = {}

    def pack_job(self, job: Job) -> PackedJob:
        """Pack a job.

        Args:
            job: The job; it keeps its images and models here.

        Raises:
            ModelError: If a model, an attack or a certificate of the user's cannot travel.
        """
        register_user_modules(self._cloudpickle)
        content = self._pickle_value(replace(job, positions=None), None, f"the work on {job.model_names}")
        return PackedJob(self._put(content), dict(self._classifiers), job.image_count)

    def pack_images(self, job: Job, positions: Sequence[int]) -> PackedImages:
        """Pack some images of a job.

        Args:
            job: The job.
            positions: Their positions in the cell.
        """
        data = job.data
        rows = list(positions) if job.positions is None else job.positions[list(positions)].tolist()
        size = self._find_block_size(data)
        blocks = list(dict.fromkeys(row // size for row in rows))
        references = tuple(self._put_block(data, block, size) for block in blocks)
        return PackedImages(references, tuple((blocks.index(row // size), row % size) for row in rows))

    def _find_block_size(self, data: Dataset) -> int:
        if id(data) not in self._block_sizes:
            self._alive.append(data)
            channels, height, width = data.image_shape
            self._block_sizes[id(data)] = max(1, BLOCK_BYTES // (4 * channels * height * width))
        return self._block_sizes[id(data)]

    def _put_block(self, data: Dataset, block: int, size: int) -> Any:
        key = id(data), block
        if key not in self._blocks:
            rows = range(block * size, min((block + 1) * size, len(data)))
            self._blocks[key] = self._put(pack_block(data.select_images(rows).load_images()))
            while len(self._blocks) > MAX_KEPT_BYTES // BLOCK_BYTES:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(key)
        return self._blocks[key]

    def name_classifier(self, classifier: Classifier) -> str:
        """Put a model into the store, unless it is there, and return its name."""
        known = self._names.get(id(classifier))
        if known is None:
            self._alive.append(classifier)
            known = self._names[id(classifier)] = f"model {len(self._names)}"
            self._classifiers[known] = self._put(self._pickle_classifier(classifier))
        return known

    def _pickle_classifier(self, classifier: Classifier) -> bytes:
        try:
            return self._pickle_value(classifier, classifier, classifier.name)
        except ModelError:
            content = self._rebuild(classifier)
            if content is None:
                raise
            return content

    def _pickle_value(self, value: object, outermost: Classifier | None, name: str) -> bytes:
        """Pickle a value; models in it, other than itself, and its images are named only."""
        packer = self
        base: Any = self._cloudpickle.Pickler

        class _Pickler(base):  # type: ignore[misc]
            def persistent_id(self, part: object) -> tuple[str, str] | None:
                if outermost is None and isinstance(part, Dataset):
                    return DATA_PART, ""
                if isinstance(part, Classifier) and part is not outermost:
                    return CLASSIFIER_PART, packer.name_classifier(part)
                return None

            def reducer_override(self, part: object) -> Any:
                if isinstance(part, FreshCopies):  # the node remembers the model as it arrives
                    return FreshCopies, ()
                return super().reducer_override(part)

        stream = io.BytesIO()
        try:
            _Pickler(stream, protocol=5).dump(value)
        except ModelError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {extract_first_line(error, 120)}"
            what = f"cannot travel to the nodes of a cluster ({reason})"
            raise ModelError(what, where=name, remedy="run it with --executor local") from error
        return stream.getvalue()


def register_user_modules(cloudpickle: Any) -> None:
    """Let the code of a user's modules travel by value, because other nodes do not have their files."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name != "__main__" and file and Path(file).suffix == ".py" and is_user_path(file):
            cloudpickle.register_pickle_by_value(module)


def pack_block(data: Dataset) -> dict[str, Any]:
    """Return a block of images as arrays, which processes of a node read without a copy."""
    return {
        "images": data.images.numpy(),
        "labels": data.labels.numpy(),
        "masks": None if data.masks is None else data.masks.numpy(),
        "ids": data.ids,
        "class_names": data.class_names,
        "name": data.name,
        "surface": data.surface,
        "groups": data.groups,
    }


def unpack_images(packed: PackedImages, get: Callable[[Any], dict[str, Any]]) -> Dataset:
    """Build the data set of some images.

    Args:
        packed: The images.
        get: Gets a block by its reference.
    """
    blocks = [get(reference) for reference in packed.blocks]
    first = blocks[0]

    def join(name: str) -> Tensor:
        # stacking copies: the store's own memory is read-only
        return torch.from_numpy(np.stack([blocks[block][name][row] for block, row in packed.places]))

    def join_names(name: str) -> tuple[str, ...]:
        return tuple(blocks[block][name][row] for block, row in packed.places)

    return Dataset(
        images=join("images"),
        labels=join("labels"),
        masks=None if first["masks"] is None else join("masks"),
        ids=join_names("ids"),
        class_names=first["class_names"],
        name=first["name"],
        surface=first["surface"],
        groups=None if first["groups"] is None else join_names("groups"),
    )
