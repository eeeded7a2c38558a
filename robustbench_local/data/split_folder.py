"""A folder of photographs, divided into folders for training, validation and test."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from robustbench_local.counted_nouns import format_count
from robustbench_local.data.collect import Listing
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.folder import list_folder
from robustbench_local.data.groups import GroupOptions, group_images
from robustbench_local.data.split import hold_out
from robustbench_local.errors import ConfigError

PARTS = ("train", "val", "test")
"""Folders of the parts."""
_LISTING_FILE = "split.csv"
"""What lies in which part; it is written last."""


def list_photographs(folder: Path, *, split: str, where: str) -> Listing | None:
    """List a folder of class folders; None if it is divided into splits, or its files are not there.

    Args:
        folder: The folder.
        split: ``"none"`` if the sub-folders are classes whatever their names.
        where: Its name in messages.

    Raises:
        DataError: If it cannot be read, or is no folder of images.
    """
    listing = list_folder(folder, where=where, split=split)
    has_splits = len(listing.files) > 0 and not all(
        Path(file).relative_to(folder).as_posix().count("/") == image.count("/")
        for file, image in zip(listing.files, listing.ids, strict=True)
    )
    return None if has_splits else listing


def divide_photographs(
    listing: Listing,
    positions: Sequence[int],
    *,
    shares: Mapping[str, float],
    groups: GroupOptions,
    seed: int,
) -> dict[str, list[int]]:
    """Divide images into three parts, class by class, so that each object is in one of them.

    Args:
        listing: The images.
        positions: Those to use.
        shares: Share of each class for ``val`` and ``test``, in (0, 1), together below 1.
        groups: Which images show the same object.
        seed: Seed of the choice.

    Returns:
        Part -> positions, in their order.

    Raises:
        ConfigError: If the shares are impossible.
        DataError: If no class has images of two objects.
    """
    if not 0 < shares["val"] + shares["test"] < 1:
        raise ConfigError("the shares for validation and test leave nothing to train on")
    ids = [listing.ids[position] for position in positions]
    # hold_out looks at ids, labels and groups alone: no image needs to be read
    rows = Dataset(
        images=torch.zeros(len(ids), 1, 1, 1),
        labels=torch.from_numpy(np.asarray(listing.labels)[list(positions)]),
        ids=tuple(ids),
        class_names=listing.class_names,
        name=listing.name,
    )
    rows = group_images(rows, groups, is_drawn=True)
    if rows.groups is None:  # copies of one file must not lie in two parts
        rows = replace(rows, groups=tuple(_hash_file(listing.files[position]) for position in positions))
    rest, test = hold_out(rows, shares["test"], seed=seed)
    training, validation = hold_out(rest, shares["val"] / (1 - shares["test"]), seed=seed)
    parts = dict(zip(PARTS, (training, validation, test), strict=True))
    position_by_id = dict(zip(ids, positions, strict=True))
    return {part: [position_by_id[image] for image in data.ids] for part, data in parts.items()}


def write_parts(listing: Listing, parts: Mapping[str, Sequence[int]], target: Path) -> None:
    """Link or copy the images of each part into ``target/PART/CLASS/``; what is there already stays.

    Hard links need no space; where they are impossible, files are copied.

    Args:
        listing: The images, with their files.
        parts: From `divide_photographs`.
        target: A folder, created where it is missing.

    Raises:
        ConfigError: If it has another division already, or cannot be written.
    """
    text = _format_parts(listing, parts)
    record = target / _LISTING_FILE
    if record.is_file() and record.read_text(encoding="utf-8", errors="backslashreplace") != text:
        raise ConfigError(
            "holds other photographs, or the same divided differently",
            where=str(target),
            remedy="name another folder as --out, or remove this one",
        )
    try:
        for part, positions in parts.items():
            for position in positions:
                _place_file(Path(listing.files[position]), target / part, listing.ids[position])
        record.write_bytes(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise ConfigError(
            f"photographs cannot be placed there: {error.strerror}",
            where=str(target),
            remedy="name a folder on a disk that has room, and that you may write to",
        ) from None


def _hash_file(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:  # named with its reason when it is read as an image
        return str(file)


def _format_parts(listing: Listing, parts: Mapping[str, Sequence[int]]) -> str:
    """Return one line for each image with its part: what a repeated division is compared with."""
    total = format_count(sum(map(len, parts.values())), "photograph")
    lines = [f"# {total} of {listing.name}", "image,part"]
    lines += [
        f'"{listing.ids[position]}",{part}' for part, positions in parts.items() for position in positions
    ]
    return "\n".join([*lines, ""])


def _place_file(source: Path, folder: Path, image: str) -> None:
    """Link or copy one file to its class folder under its own name."""
    own_path = Path(*source.parts[-1 - image.count("/") :])
    place = folder / own_path
    if place.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    original = source.resolve()
    try:
        os.link(original, place)
    except OSError:
        shutil.copyfile(original, place)
