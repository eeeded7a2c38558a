"""The jobs on a node, put together from their parts; a process keeps the models that it has received."""

from __future__ import annotations

import io
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.user_modules import USER_PREFIX
from robustbench_local.data.dataset import Dataset
from robustbench_local.evaluation.execution.cluster.job_parts import (
    DATA_PART,
    PackedImages,
    PackedJob,
    unpack_images,
)
from robustbench_local.evaluation.harness.job import Job

MAX_KEPT_MODELS = 8
"""Maximum number of models that a process keeps between tasks."""
_SKELETON_MAKERS = frozenset({"_make_skeleton_class", "_make_skeleton_enum"})
"""Functions of cloudpickle that make the class of a user's module."""

Get = Callable[[Any], Any]
"""Gets a value from the object store by its reference."""

_models: OrderedDict[str, Classifier] = OrderedDict()
"""Models of this process, by the name of their reference."""


def build_job(
    packed: PackedJob, images: PackedImages, positions: Sequence[int], get: Get, device: str = "cpu"
) -> Job:
    """Build a job that has only some of its images.

    Args:
        packed: The job.
        images: These images.
        positions: Their positions in the cell.
        get: Gets a value from the object store.
        device: Device that its models compute on.

    Returns:
        The job: positions, random numbers and verdicts are those of the whole cell.
    """
    data = unpack_images(images, get)
    rows = torch.full((packed.image_count,), -1, dtype=torch.int64)
    rows[list(positions)] = torch.arange(len(positions))
    reader = _PartReader(packed, data, get, device)
    job: Job = reader.load(get(packed.content))
    reader.forget_others()
    return replace(job, positions=rows)


class _PartReader:
    """Reads the pickles of a job and of its models."""

    def __init__(self, packed: PackedJob, data: Dataset, get: Get, device: str) -> None:
        self._packed, self._data, self._get, self._device = packed, data, get, device
        self._used: set[str] = set()

    def load(self, content: bytes) -> Any:
        """Load a pickle of a `JobPacker`."""
        reader = self

        class _Unpickler(pickle.Unpickler):
            def persistent_load(self, part: Any) -> object:
                kind, name = part
                return reader._data if kind == DATA_PART else reader.load_classifier(name)

            def find_class(self, module_name: str, global_name: str) -> Any:
                found = super().find_class(module_name, global_name)
                return _remember_class(found) if global_name in _SKELETON_MAKERS else found

        return _Unpickler(io.BytesIO(content)).load()  # what this package's own process wrote

    def load_classifier(self, name: str) -> Classifier:
        """Return a model of this process, from the object store at its first use."""
        reference = self._packed.classifiers[name]
        key = f"{reference} {self._device}"
        self._used.add(key)
        if key not in _models:
            loaded = self.load(self._get(reference))
            classifier: Classifier = loaded if isinstance(loaded, Classifier) else loaded()
            _models[key] = classifier.to(self._device)
        _models.move_to_end(key)
        return _models[key]

    def forget_others(self) -> None:
        """Forget the models that were not used for longest, beyond `MAX_KEPT_MODELS`."""
        for key in list(_models):
            if len(_models) > MAX_KEPT_MODELS and key not in self._used:
                del _models[key]


def _remember_class(make_class: Callable[..., type]) -> Callable[..., type]:
    """Make classes of a user's file findable by their name, as errors that pass between processes need."""

    def make(*arguments: Any) -> type:
        created = make_class(*arguments)
        if created.__module__.startswith(USER_PREFIX):
            module = sys.modules.setdefault(created.__module__, ModuleType(created.__module__))
            setattr(module, created.__name__, created)
        return created

    return make
