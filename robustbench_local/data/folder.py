"""``folder:DIR``: a folder with a sub-folder of images per class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from robustbench_local.counted_nouns import format_count
from robustbench_local.data.class_labels import index_labels
from robustbench_local.data.collect import Listing
from robustbench_local.data.decode import DecodedImage, read_image
from robustbench_local.data.folder_layout import find_classes, list_subfolders
from robustbench_local.data.image_files import IMAGE_SUFFIXES, find_unread_format, is_possible_data
from robustbench_local.errors import DataError

_READ_FORMATS = "PNG, JPEG, PPM and BMP are read"
_LAYOUT_REMEDY = "put the images of each class into a folder of its own, as in DIR/CLASS/IMAGE.png"
_ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z")


def list_folder(
    folder: Path,
    *,
    where: str,
    split: str = "test",
    alpha: str | None = None,
    allow_unread_classes: bool = False,
) -> Listing:
    """List the images of a folder with a sub-folder per class, or with such folders under train, val, test.

    Args:
        folder: The folder.
        where: Its name in messages.
        split: The split, if there are splits; ``"none"`` if the folders are classes whatever their names.
            See :func:`~robustbench_local.data.folder_layout.find_classes`.
        alpha: Background for transparent images.
        allow_unread_classes: List a class of which no image can be read with the others, for a check of them.

    Returns:
        The images, by class and then by name; ids are paths relative to the folder of the classes.
        Sub-folders whose names are all numbers give these numbers as class indices.

    Raises:
        DataError: If the folder is missing, unreadable or has another layout, if it is not clear which
            folders are classes, or if all images of a class are in unsupported formats.
    """
    _list_folders(folder, where)
    try:
        root, layout_notes = find_classes(folder, split, where)
    except OSError as error:
        raise _build_read_error(error, where) from None
    label_map, class_names = index_labels((path.name for path in _list_folders(root, where)), where)
    if not label_map:
        raise _build_layout_error(root, where)
    other_files = _OtherFiles(where)
    other_files.count_files(path for path in root.iterdir() if path.is_file())
    files: list[Path] = []
    labels: list[int] = []
    for name, label in label_map.items():
        paths = _list_images(root / name, other_files, label)
        files += paths
        labels += [label] * len(paths)
        other_files.finish_class(name, has_images=bool(paths))
    if not files:
        raise _build_layout_error(root, where, other_files.counts_by_kind)
    if not allow_unread_classes:
        other_files.check_unread_classes()

    def read(position: int) -> DecodedImage:
        path = files[position]
        name = f"{where}, {_format_id(path, root)}"
        try:
            return read_image(path, where=name, alpha=alpha)
        except DataError:
            _check_presence(path, name)
            raise

    return Listing(
        name=folder.resolve().name,
        where=where,
        ids=[_format_id(path, root) for path in files],
        labels=np.array(labels, dtype=np.int64),
        class_names=class_names,
        label_map={_format_name(name): label for name, label in label_map.items()},
        read_image=read,
        notes=(*layout_notes, *other_files.build_notes()),
        unread_images=tuple(
            (_format_id(path, root), label, kind) for path, label, kind in other_files.unread_images
        ),
        files=files,
        part=str(root),
    )


class _OtherFiles:
    """Everything beside the images that are read: other files, unsupported formats, empty classes.

    Args:
        where: Name of the folder in messages.
    """

    def __init__(self, where: str) -> None:
        self.counts_by_kind: Counter[str] = Counter()
        self.unread_images: list[tuple[Path, int, str]] = []
        self.where = where
        self._empty_classes: list[str] = []
        self._unread_classes: list[tuple[str, Counter[str]]] = []
        self._counts_in_class: Counter[str] = Counter()

    def count_files(self, paths: Iterable[Path], label: int | None = None) -> None:
        """Count files that are not read; images in unsupported formats are recorded with their class."""
        for path in paths:
            self.counts_by_kind[_find_kind(path)] += 1
            if label is None:
                continue
            image_format = find_unread_format(path)
            if image_format is not None:
                self.unread_images.append((path, label, f"a {image_format} image, a format that is not read"))
            if image_format is not None or is_possible_data(path):
                self._counts_in_class[_find_kind(path)] += 1

    def add_unread(self, path: Path, label: int, kind: str, reason: str) -> None:
        """Record a path that may hold images of a class and is not read."""
        self.counts_by_kind[kind] += 1
        self._counts_in_class[kind] += 1
        self.unread_images.append((path, label, reason))

    def finish_class(self, name: str, *, has_images: bool) -> None:
        """Close a class after its files have been counted."""
        if not has_images and self._counts_in_class:
            self._unread_classes.append((name, self._counts_in_class))
        elif not has_images:
            self._empty_classes.append(name)
        self._counts_in_class = Counter()

    def check_unread_classes(self) -> None:
        """Refuse a class that has files of which none can be read: its images would be missing silently.

        Raises:
            DataError: Naming the first such class.
        """
        if not self._unread_classes:
            return
        name, kinds = self._unread_classes[0]
        more = (
            f" (and {format_count(len(self._unread_classes) - 1, 'more such class')})"
            if len(self._unread_classes) > 1
            else ""
        )
        what = f"the class {_format_name(name)} has no readable image, only {_format_counts(kinds)}{more}"
        remedy = f"{_READ_FORMATS}: convert them, or move the folder away"
        raise DataError(what, where=self.where, remedy=remedy)

    def build_notes(self) -> tuple[str, ...]:
        """Return the remarks for the reader of the report."""
        notes = (f"files left aside: {_format_counts(self.counts_by_kind)}",) if self.counts_by_kind else ()
        names = ", ".join(map(_format_name, self._empty_classes))
        return (*notes, f"class folders without images: {names}") if names else notes


def _list_folders(folder: Path, where: str) -> list[Path]:
    try:
        return list_subfolders(folder)
    except FileNotFoundError:
        raise DataError("there is no such folder", where=where, remedy="check the path") from None
    except NotADirectoryError:
        packed = folder.suffix.lower() in _ARCHIVE_SUFFIXES
        remedy = (
            "unpack the archive and name the folder"
            if packed
            else "name the folder that holds the class folders"
        )
        raise DataError("is a file, not a folder", where=where, remedy=remedy) from None
    except OSError as error:
        raise _build_read_error(error, where) from None


def _list_images(folder: Path, other_files: _OtherFiles, label: int) -> list[Path]:
    """List the image files of a class, sorted, with its sub-folders; count all others in ``other_files``."""

    def fail(error: OSError) -> None:
        raise _build_read_error(error, other_files.where)

    images: list[Path] = []
    for parent, folders, files in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        for path in (Path(parent, name) for name in folders if Path(parent, name).is_symlink()):
            other_files.add_unread(path, label, "linked folder", "a link to a folder, which is not followed")
        for path in (Path(parent, name) for name in sorted(files)):
            if path.name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
                other_files.count_files([path], label)
            elif path.is_file() or path.is_symlink():
                images.append(path)
            else:
                other_files.add_unread(path, label, "pipe or device", "no regular file")
    return images


def _check_presence(path: Path, where: str) -> None:
    """Say why a file that was listed is not there: no advice about unreadable files helps."""
    if not os.path.lexists(path):
        what, remedy = "is gone: the folder has changed since it was listed", "run the same command again"
        raise DataError(what, where=where, remedy=remedy) from None
    if path.is_symlink() and not path.exists():
        what, remedy = "is a link to a file that does not exist", "repair or remove the link"
        raise DataError(what, where=where, remedy=remedy) from None


def _build_read_error(error: OSError, where: str) -> DataError:
    what = f"cannot be read: {error.strerror}"
    return DataError(what, where=where, remedy="check the permissions of the folder and what it holds")


def _build_layout_error(root: Path, where: str, counts: Counter[str] | None = None) -> DataError:
    if counts is not None:
        detail = f", only {_format_counts(counts)}" if counts else ""
        remedy = f"{_READ_FORMATS}: convert the others"
        return DataError(f"there are no images in the class folders{detail}", where=where, remedy=remedy)
    image_count = sum(1 for path in root.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    what = (
        f"has {format_count(image_count, 'image')} but no class folders"
        if image_count
        else "is empty: there are no class folders"
    )
    return DataError(what, where=where, remedy=_LAYOUT_REMEDY)


def _find_kind(path: Path) -> str:
    return "hidden" if path.name.startswith(".") else path.suffix.lower() or "without a suffix"


def _format_counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))


def _format_id(path: Path, root: Path) -> str:
    return _format_name(path.relative_to(root).as_posix())


def _format_name(name: str) -> str:
    """Return the name as valid Unicode, whatever bytes the file system has."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
