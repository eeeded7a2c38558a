"""Training images from their sources; the held-out images share no object with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.counted_nouns import choose_form, format_count
from robustbench_local.data.collect import ModelContract
from robustbench_local.data.data_sources import load_dataset
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.exclusion import Exclusion, UnmatchedExclusionError
from robustbench_local.data.folder_layout import NO_SPLIT
from robustbench_local.data.photographs import is_photograph_size, shrinks_photographs
from robustbench_local.data.split import hold_out
from robustbench_local.errors import ConfigError, DataError
from robustbench_local.evaluation.grid.data_entries import DataEntry
from robustbench_local.evaluation.harness.outcome import hash_image
from robustbench_local.evaluation.training.train_and_save import TrainingImages


@dataclass(frozen=True, kw_only=True)
class TrainingDataSpec:
    """The selection of images for a training.

    Attributes:
        entry: The training images.
        validation_source: Source of the validation images; None: the data's own validation split, else a
            share of the training images.
        validation_share: Validation share of each class.
        max_validation_images: Maximum number of validation images.
        test_source: Source of the test images; None: the data's own test split, if any.
        test_share: Test share of each class, held out of the training images where there is no test split;
            0: none.
        contract: How a network takes its images: photographs are prepared as it says where the entry gives
            no size.
        is_divided: Whether all parts come from one source, so that its groups are about all of them, and the
            validation images are all used.
        exclusion: What was left out before the images were divided.
    """

    entry: DataEntry
    validation_source: str | None = None
    validation_share: float = 0.1
    max_validation_images: int = 1000
    test_source: str | None = None
    test_share: float = 0.0
    contract: InputContract | None = None
    is_divided: bool = False
    exclusion: Exclusion | None = None


def load_training_images(
    spec: TrainingDataSpec, *, seed: int, base: Path
) -> tuple[TrainingImages, dict[str, str]]:
    """Load the images of a training.

    Args:
        spec: The selection of images.
        seed: Seed of every random choice.
        base: Folder that relative paths start from.

    Returns:
        The images, and a description of the source of each part.

    Raises:
        ConfigError: If a source or an option is wrong.
        DataError: If images cannot be used, the parts have different classes, or images that were named for
            validation or for the test are also training images.
    """
    entry = spec.entry
    read = partial(_load_entry, seed=seed, base=base, contract=spec.contract)
    training = read(entry)
    sources = {"training": f"{entry.source}, {entry.split}"}
    test = _load_split(entry, spec.test_source, "test", None, read, keeps_groups=spec.is_divided)
    if test is not None:
        sources["test"] = f"{spec.test_source or entry.source}, test"
    elif spec.test_share:
        training, test = hold_out(training, spec.test_share, seed=seed)
        sources["test"] = _describe_share(spec.test_share, training, sources["training"])
    limit = None if spec.is_divided else spec.max_validation_images
    validation = _load_split(entry, spec.validation_source, "val", limit, read, keeps_groups=spec.is_divided)
    if validation is None:
        training, validation = hold_out(training, spec.validation_share, seed=seed)
        sources["validation"] = _describe_share(spec.validation_share, training, sources["training"])
    else:
        sources["validation"] = f"{spec.validation_source or entry.source}, val"
    named = next(
        (part for part in (training, validation, test) if part is not None and part.has_class_names), training
    )
    training, validation = _copy_class_names(training, named), _copy_class_names(validation, named)
    test = None if test is None else _copy_class_names(test, named)
    images = TrainingImages(training=training, validation=validation, test=test)
    return images, sources | _check_overlap(images, spec, sources)


def _describe_share(share: float, data: Dataset, source: str) -> str:
    what = "objects" if data.groups is not None else "images"
    return f"{share:.3g} of the {what} of each class of {source}"


def peek_images(entry: DataEntry, base: Path) -> tuple[int, int]:
    """Return the number of classes and of channels of the images of an entry, from its first image.

    Raises:
        ConfigError: If the source or an option is wrong.
        DataError: If images cannot be used.
    """
    few = entry.model_copy(update={"limit": 1, "choose": "first", "groups": None, "group_pattern": None})
    first = _load_entry(few, seed=0, base=base, contract=None)
    return first.num_classes, first.image_shape[0]


def hash_images(data: Dataset) -> list[str]:
    """Return a digest of each image's pixels, which identifies the same image in another set."""
    return [hash_image(image) for image in data.images]


def _check_overlap(
    images: TrainingImages, wanted: TrainingDataSpec, sources: dict[str, str]
) -> dict[str, str]:
    """Refuse user-named parts that share images with another part; for other parts only warn.

    Published sets share a few images between their splits, and their users cannot change that.
    """
    overlaps, before, known = {}, "training", set(hash_images(images.training))
    parts = {
        "validation": (images.validation, wanted.validation_source),
        "test": (images.test, wanted.test_source),
    }
    for part, (data, named) in parts.items():
        digests = [] if data is None else hash_images(data)
        shared = sum(mark in known for mark in digests)
        verb, noun = choose_form(shared, "is a", "are"), choose_form(shared, "image", "images")
        what = f"{shared} of its {format_count(len(digests), 'image')} {verb} {before} {noun} too"
        if shared and named is not None:
            remedy = f"name other {part} images, or none"
            raise DataError(what, where=f"{part} images {sources[part]}", remedy=remedy)
        if shared:
            overlaps[part] = f"{sources[part]} ({what})"
        before, known = f"{before} or {part}", known | set(digests)
    return overlaps


def _copy_class_names(data: Dataset, named: Dataset) -> Dataset:
    """Copy class names from other data; one of several parts may have numbers only."""
    if data.num_classes != named.num_classes or (
        data.has_class_names and data.class_names != named.class_names
    ):
        raise DataError(
            f"its {format_count(data.num_classes, 'class')} "
            f"{choose_form(data.num_classes, 'is', 'are')} not the "
            f"{named.num_classes} of {named.name}",
            where=data.name,
            remedy="use images of the same classes, in the same order",
        )
    return replace(data, class_names=named.class_names)


def _load_split(
    entry: DataEntry,
    source: str | None,
    split: str,
    limit: int | None,
    read: Callable[[DataEntry], Dataset],
    *,
    keeps_groups: bool,
) -> Dataset | None:
    """Load validation or test images from their own source or another split; None if there is none."""
    is_undivided = source is not None and entry.split == NO_SPLIT  # its folders are classes as well
    changed: dict[str, Any] = {"split": NO_SPLIT if is_undivided else split, "limit": limit}
    changed["source"] = source or entry.source
    if not keeps_groups:  # they are about the training images
        changed |= {"groups": None, "group_pattern": None}
    split_entry = entry.model_copy(update=changed)
    if source is not None:
        return _read_part(split_entry, read)
    if split == entry.split or not _has_split(entry, split, read):
        return None
    return _read_part(split_entry, read)


def _read_part(entry: DataEntry, read: Callable[[DataEntry], Dataset]) -> Dataset:
    """Read validation or test images; a table that leaves out training images alone says nothing of them."""
    try:
        return read(entry)
    except UnmatchedExclusionError:
        return read(entry.model_copy(update={"exclude": None}))


def _has_split(entry: DataEntry, split: str, read: Callable[[DataEntry], Dataset]) -> bool:
    """Check whether the source has this split, with images other than the training images."""
    few = {"limit": 1, "choose": "first"}
    try:
        loaded = _read_part(entry.model_copy(update={**few, "split": split}), read)
    except (ConfigError, DataError):
        return False
    trained_on = read(entry.model_copy(update=few))
    return not torch.equal(loaded.images, trained_on.images)


def _load_entry(entry: DataEntry, *, seed: int, base: Path, contract: InputContract | None) -> Dataset:
    chosen = seed if entry.seed is None else entry.seed
    settings = {name: getattr(entry, name) for name in DataEntry.model_fields if name != "seed"}
    find_contract = None if contract is None else partial(_find_contract, contract)
    return load_dataset(**settings, seed=chosen, base_folder=base, contract=find_contract)


def _find_contract(
    contract: InputContract, _class_names: tuple[str, ...], size: tuple[int, int] | None
) -> ModelContract | None:
    """Return the contract for images of several sizes, and for photographs of one that it shrinks.

    Small images of one size keep it, and the network enlarges them: as in a grid.
    """
    if contract.input_size is None:
        return None
    if size is not None and not (is_photograph_size(size) and shrinks_photographs(contract, size)):
        return None
    return ModelContract(contract=contract, models="the network does")
