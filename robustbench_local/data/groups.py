"""Groups of images that show one object: frames of a track, photographs of one sign, slices of one patient.

Images of a group are alike, so that intervals over images as if they were independent are too short for
further objects.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from robustbench_local.config.user_files import read_user_file
from robustbench_local.counted_nouns import format_count
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.exclusion import IMAGE_COLUMNS
from robustbench_local.data.look_alikes import describe_look_alikes
from robustbench_local.data.split import ImageSet, group_by_pattern
from robustbench_local.errors import ConfigError, DataError

NO_GROUPS = "none"
"""Value of ``groups`` that declares the images to be independent."""
FOLDER_GROUPS = "folder"
"""Value of ``groups`` that takes the folders inside the class folders."""
_GROUP_COLUMNS = ("group", "track", "object", "video")
_MAX_TABLE_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class GroupOptions:
    """Where the groups of images come from.

    Args:
        groups: ``none``, ``folder``, or the path of a CSV file; None: the groups of the source, if any.
        pattern: Regular expression whose match in an image's id names the group within its class.
        base_folder: Folder in which a relative path is looked up before the current one.

    Raises:
        ConfigError: If both ``groups`` and ``pattern`` are given.
    """

    groups: str | None = None
    pattern: str | None = None
    base_folder: Path | None = None

    def __post_init__(self) -> None:
        if self.groups is not None and self.pattern is not None:
            raise ConfigError(
                "groups and group_pattern both say which images belong together", remedy="keep one"
            )


def group_images(data: Dataset, options: GroupOptions, *, is_drawn: bool = False) -> Dataset:
    """Return the data with its groups, and a note that says how many there are.

    Args:
        data: The chosen images, with the groups of their source if it has any.
        options: Where other groups come from.
        is_drawn: Whether the images were drawn independently, so that likeness means nothing.

    Returns:
        The data. If no groups are declared and the images look as if they had some, a note says so.

    Raises:
        ConfigError: If the pattern is wrong, or does not fit an id.
        DataError: If the folder or the table says nothing of an image.
    """
    data = assign_groups(data, options)
    if options.groups == NO_GROUPS:
        return data
    note = describe_groups(data)
    if data.groups is None and not is_drawn:
        note = describe_look_alikes(data)
    return replace(data, notes=(*data.notes, note)) if note else data


def assign_groups(data: ImageSet, options: GroupOptions) -> ImageSet:
    """Return the data, or their listing, with the groups that the options name; errors as `group_images`."""
    if options.groups == NO_GROUPS:
        return replace(data, groups=None)
    if options.pattern is not None:
        return group_by_pattern(data, options.pattern)
    if options.groups == FOLDER_GROUPS:
        return replace(data, groups=tuple(_find_folder(image, data.name) for image in data.ids))
    if options.groups is not None:
        groups = _read_table(data.ids, options.groups, options.base_folder)
        return replace(data, groups=groups)
    return data


def describe_groups(data: Dataset) -> str:
    """Describe how many groups there are, and how many images they have; empty if each has one."""
    sizes = Counter(data.group_by_image.values())
    if not sizes:
        return ""
    fewest, most = min(sizes.values()), max(sizes.values())
    each = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
    return (
        f"{format_count(len(data), 'image')} in {format_count(len(sizes), 'group')}, {each} each: "
        f"intervals and comparisons are over groups"
    )


def _find_folder(image: str, name: str) -> str:
    """Return class folder and next folder of an image's id."""
    parts = image.split("/")
    if len(parts) < 3:
        remedy = "put the images of each group into a folder of its own, as in CLASS/GROUP/IMAGE.png"
        raise DataError(f"{image!r} lies in no folder inside its class folder", where=name, remedy=remedy)
    return "/".join(parts[:2])


def _read_table(ids: Sequence[str], table: str, base: Path | None) -> tuple[str, ...]:
    """Return the group of each image from a CSV file, by the image's id or by the end of it."""
    path = Path(table).expanduser()
    path = base / path if base is not None and (base / path).exists() else path
    where = f"groups {table}"
    text = read_user_file(path, where=where, error=DataError, limit=_MAX_TABLE_BYTES).decode(
        "utf-8-sig", "replace"
    )
    rows = csv.DictReader(io.StringIO(text))
    image_column, group_column = (
        _find_column(rows.fieldnames or (), names, where) for names in (IMAGE_COLUMNS, _GROUP_COLUMNS)
    )
    group_by_image = {str(row[image_column]): str(row[group_column]) for row in rows}
    groups = [_look_up(image, group_by_image) for image in ids]
    missing = [image for image, group in zip(ids, groups, strict=True) if group is None]
    if missing:
        what = f"has no group for {format_count(len(missing), 'image')}, the first: {missing[0]}"
        raise DataError(what, where=where, remedy="add a row for each image, with its id or file name")
    return tuple(group for group in groups if group is not None)


def _find_column(columns: Sequence[str], names: tuple[str, ...], where: str) -> str:
    known = {column.strip().casefold(): column for column in columns}
    for name in names:
        if name in known:
            return known[name]
    listed = ", ".join(known.values()) or "none"
    raise DataError(
        f"has no column {' or '.join(names[:2])}: its columns are {listed}",
        where=where,
        remedy="write the header image,group",
    )


def _look_up(image: str, group_by_image: Mapping[str, str]) -> str | None:
    """Return the group of an image under its id, or under a part of the id that ends it."""
    parts = image.split("/")
    for start in range(len(parts)):
        group = group_by_image.get("/".join(parts[start:]))
        if group:
            return group
    return None
