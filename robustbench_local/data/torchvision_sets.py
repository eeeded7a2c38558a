"""``torchvision:NAME``: published data sets, read by torchvision's own classes."""

from __future__ import annotations

import inspect
import pickle
import socket
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robustbench_local.data.collect import Listing
from robustbench_local.data.dataset import build_class_names
from robustbench_local.data.decode import (
    BadImageError,
    DecodedImage,
    convert_image,
    translate_decoding_errors,
)
from robustbench_local.data.gtsrb import CLASS_NAMES
from robustbench_local.errors import ConfigError, DataError, did_you_mean

_TRAIN_TEST_SPLITS = {"train": "train", "test": "test"}
_TRAIN_VAL_SPLITS = {"train": "train", "val": "val"}
_ALL_SPLITS = {**_TRAIN_VAL_SPLITS, "test": "test"}
_NO_SPLITS: Mapping[str, str] = {}
_CONNECT_SECONDS = 30.0
# Raised by torchvision's classes for missing or damaged files, including asserts and bare lookups.
_UNUSABLE_ERRORS = (
    RuntimeError, OSError, ValueError, TypeError, LookupError, AssertionError, EOFError,
    pickle.UnpicklingError, tarfile.TarError, zipfile.BadZipFile,
)  # fmt: skip


@dataclass(frozen=True)
class _TorchvisionSet:
    """The arguments and properties of one of torchvision's classes.

    Args:
        splits: Our split -> torchvision's; empty if the set has none.
        has_train_flag: The split is selected with ``train=True`` and ``train=False``.
        class_names: Names that the class does not provide.
        standard_size: Size to which the field resizes the images, if their sizes differ.
        folder: Sub-folder of the root to look in, if it exists.
    """

    splits: Mapping[str, str]
    has_train_flag: bool = False
    class_names: tuple[str, ...] = ()
    standard_size: tuple[int, int] | None = None
    folder: str = ""


_TORCHVISION_SETS: dict[str, _TorchvisionSet] = {
    "CIFAR10": _TorchvisionSet(_TRAIN_TEST_SPLITS, has_train_flag=True),
    "CIFAR100": _TorchvisionSet(_TRAIN_TEST_SPLITS, has_train_flag=True),
    "Caltech101": _TorchvisionSet(_NO_SPLITS),
    "Caltech256": _TorchvisionSet(_NO_SPLITS),
    "Country211": _TorchvisionSet({"train": "train", "val": "valid", "test": "test"}),
    "DTD": _TorchvisionSet(_ALL_SPLITS),
    "EuroSAT": _TorchvisionSet(_NO_SPLITS),
    "FGVCAircraft": _TorchvisionSet(_ALL_SPLITS),
    "FashionMNIST": _TorchvisionSet(_TRAIN_TEST_SPLITS, has_train_flag=True),
    "Flowers102": _TorchvisionSet(_ALL_SPLITS),
    "Food101": _TorchvisionSet(_TRAIN_TEST_SPLITS),
    "GTSRB": _TorchvisionSet(_TRAIN_TEST_SPLITS, class_names=CLASS_NAMES, standard_size=(32, 32)),
    "ImageNet": _TorchvisionSet(_TRAIN_VAL_SPLITS, folder="imagenet"),
    "Imagenette": _TorchvisionSet(_TRAIN_VAL_SPLITS),
    "KMNIST": _TorchvisionSet(_TRAIN_TEST_SPLITS, has_train_flag=True),
    "MNIST": _TorchvisionSet(_TRAIN_TEST_SPLITS, has_train_flag=True, class_names=build_class_names(10)),
    "OxfordIIITPet": _TorchvisionSet({"train": "trainval", "test": "test"}),
    "RenderedSST2": _TorchvisionSet(_ALL_SPLITS),
    "STL10": _TorchvisionSet(_TRAIN_TEST_SPLITS),
    "SUN397": _TorchvisionSet(_NO_SPLITS),
    "SVHN": _TorchvisionSet(_TRAIN_TEST_SPLITS, class_names=build_class_names(10)),
    "StanfordCars": _TorchvisionSet(_TRAIN_TEST_SPLITS),
    "USPS": _TorchvisionSet(_TRAIN_TEST_SPLITS, has_train_flag=True, class_names=build_class_names(10)),
}

#: Valid names in ``torchvision:NAME``.
TORCHVISION_NAMES: tuple[str, ...] = tuple(_TORCHVISION_SETS)


def list_torchvision(name: str, *, root: Path, split: str = "test", download: bool = True) -> Listing:
    """List the images of one of torchvision's data sets.

    Args:
        name: One of ``TORCHVISION_NAMES``, in any case.
        root: Folder of the files, and of downloads.
        split: ``train``, ``val`` or ``test``; sets without a labelled test split use ``val`` for it.
        download: Allow missing files to be downloaded.

    Returns:
        The images, ids ``NAME/INDEX`` in torchvision's order.

    Raises:
        ConfigError: If there is no such data set or split.
        DataError: If its files are missing and cannot be downloaded, or are damaged.
    """
    known = {known_name.casefold(): known_name for known_name in TORCHVISION_NAMES}
    if name.casefold() not in known:
        remedy = did_you_mean(name, TORCHVISION_NAMES, limit=len(TORCHVISION_NAMES))
        raise ConfigError(f"unknown data set torchvision:{name}", remedy=remedy)
    name = known[name.casefold()]
    source, where = _TORCHVISION_SETS[name], f"torchvision:{name}"
    torchvision_split, notes = _find_split(source, split, where)
    dataset = _open_dataset(name, source, torchvision_split, root.expanduser(), download)
    labels = np.array([int(label) for label in _read_labels(dataset)], dtype=np.int64)
    class_names = source.class_names or _read_class_names(dataset, int(labels.max(initial=0)) + 1)

    def read(position: int) -> DecodedImage:
        location = f"{where}, image {position}"
        with translate_decoding_errors(location):
            image = dataset[position][0]
            if not isinstance(image, Image.Image):
                raise BadImageError(f"torchvision gave a {type(image).__name__}, not an image")
            return convert_image(image, where=location)

    return Listing(
        name=name,
        where=where,
        ids=[f"{name}/{position}" for position in range(len(labels))],
        labels=labels,
        class_names=class_names,
        label_map={str(label): label for label in np.unique(labels).tolist()},
        read_image=read,
        notes=notes,
        standard_size=source.standard_size,
        part=torchvision_split or "",
    )


def _find_split(source: _TorchvisionSet, split: str, where: str) -> tuple[str | None, tuple[str, ...]]:
    wanted = {"validation": "val", "valid": "val"}.get(split, split)
    if not source.splits:
        return None, ("the data set has no splits: a model may have been trained on its images",)
    if wanted in source.splits:
        return source.splits[wanted], ()
    if wanted == "test":
        return source.splits["val"], ("the labels of the test split are not public: the val split is used",)
    raise ConfigError(
        f"there is no split {split!r}", where=where, remedy=f"use one of {', '.join(source.splits)}"
    )


def _open_dataset(name: str, source: _TorchvisionSet, split: str | None, root: Path, download: bool) -> Any:
    """Build torchvision's data set, and download only missing files."""
    from torchvision import datasets  # noqa: PLC0415 - seconds, for those only who name one of its data sets

    dataset_class: Callable[..., Any] = getattr(datasets, name)
    arguments: dict[str, Any] = {}
    if split is not None:
        arguments = {"train": split == "train"} if source.has_train_flag else {"split": split}
    if source.folder and (root / source.folder).is_dir():
        root = root / source.folder
    try:
        with _quiet_download():
            return dataset_class(root, **arguments)
    except _UNUSABLE_ERRORS as error:
        missing = _format_error(error)
    advice = f"put the files under {root}"
    if download and "download" in inspect.signature(dataset_class).parameters:
        try:
            with _quiet_download():
                return dataset_class(root, **arguments, download=True)
        except _UNUSABLE_ERRORS as error:
            if _format_error(error) != missing:
                what = f"cannot download {name}: {_format_error(error)}"
                raise DataError(what, remedy=f"{advice}, or run on a machine with a network") from None
    remedy = f"{advice} as torchvision.datasets.{name} documents"
    raise DataError(f"cannot be opened: {missing}", where=f"torchvision:{name}", remedy=remedy)


@contextmanager
def _quiet_download() -> Iterator[None]:
    """Suppress warnings about torchvision's own code, and limit the wait for a silent server."""
    previous_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_CONNECT_SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        socket.setdefaulttimeout(previous_timeout)


def _read_labels(dataset: Any) -> Sequence[Any] | NDArray[Any]:
    """Read all labels without decoding an image."""
    for attribute in ("targets", "labels", "_labels", "y"):
        labels = getattr(dataset, attribute, None)
        if labels is not None:
            return list(labels)
    for attribute in ("_samples", "samples"):
        if hasattr(dataset, attribute):
            return [sample[1] for sample in getattr(dataset, attribute)]
    return [dataset[position][1] for position in range(len(dataset))]


def _read_class_names(dataset: Any, count: int) -> tuple[str, ...]:
    """Read the class names; of several words for one class, the first."""
    names = (
        getattr(dataset, "classes", None) or getattr(dataset, "categories", None) or build_class_names(count)
    )
    return tuple(name if isinstance(name, str) else str(name[0]) for name in names)


def _format_error(error: BaseException) -> str:
    reason = str(getattr(error, "reason", "") or error) or type(error).__name__
    return " ".join(reason.split()).rstrip(".")
