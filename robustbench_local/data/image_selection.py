"""Selection of images of a data set or a listing: some positions, or all that a table does not leave out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from robustbench_local.data.collect import Listing
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.exclusion import find_remaining, read_exclusion
from robustbench_local.data.split import ImageSet
from robustbench_local.errors import DataError


def exclude_images(data: ImageSet, table: str | None, *, split: str, base: Path | None) -> ImageSet:
    """Return the images that a table does not leave out, with the exclusion and a note that says so.

    Args:
        data: Loaded images, or their listing.
        table: See `read_exclusion`; None leaves nothing out.
        split: The split that was loaded.
        base: Folder in which a relative path is looked up before the current one.

    Raises:
        DataError: If the table cannot be used, or leaves out every image.
    """
    if table is None:
        return data
    unread: list[str] = [image for image, _, _ in data.unread_images] if isinstance(data, Listing) else []
    exclusion = read_exclusion(table, [*data.ids, *unread], split=split, base=base)
    positions = find_remaining(data.ids, exclusion)
    if not positions:
        raise DataError("leaves out every image", where=f"exclude {table}", remedy="keep some of them")
    some = select_positions(data, positions)
    if isinstance(some, Listing):
        excluded = frozenset(exclusion.images)
        unread_images = tuple(row for row in some.unread_images if row[0] not in excluded)
        some = replace(some, unread_images=unread_images)
    return replace(some, exclusion=exclusion, notes=(*some.notes, exclusion.format_note()))


def select_positions(data: ImageSet, positions: Sequence[int]) -> ImageSet:
    """Return the images at these positions, in this order; all other fields are unchanged."""
    if isinstance(data, Dataset):
        return data.select_images(positions)  # type: ignore[return-value]
    chosen, read = list(positions), data.read_image
    return replace(
        data,
        ids=[data.ids[position] for position in chosen],
        labels=data.labels[chosen],
        masks=None if data.masks is None else data.masks[chosen],
        groups=None if data.groups is None else [data.groups[position] for position in chosen],
        files=[data.files[position] for position in chosen] if data.files else (),
        read_image=lambda position: read(chosen[position]),
    )
