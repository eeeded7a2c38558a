"""Images to leave out: the findings of ``rbl check-data`` as a reader edited them, or any table of images."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustbench_local.config.user_files import read_user_file
from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import DataError

IMAGE_COLUMNS = ("image", "id", "filename", "file", "path")
"""Columns that name an image in tables of users."""
UNSPLIT = "all"
"""Name of the only part of data without splits."""
_ANSWERS = {
    "yes": True,
    "true": True,
    "1": True,
    "x": True,
    "no": False,
    "false": False,
    "0": False,
    "": False,
}
_SPLIT_SPELLINGS = {"valid": "val", "validation": "val", "training": "train", "testing": "test"}
_MAX_TABLE_BYTES = 256 * 2**20


class UnmatchedExclusionError(DataError):
    """A table names images to leave out, and none of them is in the data."""


@dataclass(frozen=True, kw_only=True)
class Exclusion:
    """Images that a table leaves out of a data set.

    Attributes:
        file: Name of the table, without its folder.
        sha256: Hash of its content.
        images: Ids of the images that were left out.
    """

    file: str
    sha256: str
    images: tuple[str, ...]

    def format_note(self) -> str:
        """Describe it in a note for the reader of a report."""
        return f"{format_count(len(self.images), 'image')} left out by {self.file} ({self.sha256[:12]})"


def read_exclusion(table: str, ids: Collection[str], *, split: str, base: Path | None = None) -> Exclusion:
    """Read which images of a split are to be left out.

    Args:
        table: A CSV file with the column ``image``, and optionally ``exclude`` (yes or no; without it every
            row counts) and ``split`` (empty for any).
        ids: Ids of the images of the data.
        split: The split that is loaded.
        base: Folder in which a relative path is looked up before the current one.

    Raises:
        DataError: If the table cannot be read, or an answer is neither yes nor no.
        UnmatchedExclusionError: If no image that it names for this split is in the data.
    """
    path = Path(table).expanduser()
    path = base / path if base is not None and (base / path).exists() else path
    where = f"exclude {table}"
    content = read_user_file(path, where=where, error=DataError, limit=_MAX_TABLE_BYTES)
    # newline="": a name may contain one
    rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig", "replace"), newline=""))
    columns = {name.strip().casefold(): name for name in rows.fieldnames or () if name is not None}
    image_column = next((columns[name] for name in IMAGE_COLUMNS if name in columns), None)
    if image_column is None:
        listed = ", ".join(columns) or "none"
        raise DataError(
            f"has no column image: its columns are {listed}", where=where, remedy="write the header image"
        )
    wanted: set[str] = set()
    try:
        for number, row in enumerate(rows, start=2):
            image = row[image_column] or ""
            is_excluded = _is_excluded(row, columns, f"{where}, row {number}")
            if image and is_excluded and _is_of_split(row, columns, split):
                wanted.add(image)
    except csv.Error as error:
        raise DataError(f"is not a table: {error}", where=where) from None
    found = tuple(image for image in ids if image in wanted)
    if wanted and not found:
        what = f"none of the {format_count(len(wanted), 'image')} that it names is in the data"
        remedy = f"write ids as in {next(iter(ids), '')!r}, or the table of these data"
        raise UnmatchedExclusionError(f"{what}, such as {min(wanted)!r}", where=where, remedy=remedy)
    return Exclusion(file=path.name, sha256=hashlib.sha256(content).hexdigest(), images=found)


def find_remaining(ids: Sequence[str], exclusion: Exclusion | None) -> list[int]:
    """Return the positions of the images that are not left out."""
    excluded = frozenset(exclusion.images) if exclusion else frozenset()
    return [position for position, image in enumerate(ids) if image not in excluded]


def _is_excluded(row: dict[str, str], columns: dict[str, str], where: str) -> bool:
    if "exclude" not in columns:
        return True
    answer = (row[columns["exclude"]] or "").strip().casefold()
    if answer not in _ANSWERS:
        raise DataError(f"exclude is {answer!r}", where=where, remedy="write yes or no")
    return _ANSWERS[answer]


def _is_of_split(row: dict[str, str], columns: dict[str, str], split: str) -> bool:
    if "split" not in columns:
        return True
    named = _normalize_split(row[columns["split"]] or "")
    return named in ("", UNSPLIT, _normalize_split(split))


def _normalize_split(split: str) -> str:
    folded = split.strip().casefold()
    return _SPLIT_SPELLINGS.get(folded, folded)
