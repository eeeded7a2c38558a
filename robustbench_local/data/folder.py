"""``folder:DIR``: a folder of images for each class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from robustbench_local.data.collect import Listing
from robustbench_local.data.decode import Picture, read_picture
from robustbench_local.data.folder_layout import find_classes, subfolders
from robustbench_local.data.image_files import SUFFIXES, may_hold_data, unread_format
from robustbench_local.data.labels import index_labels
from robustbench_local.errors import DataError

_READ_FORMATS = "PNG, JPEG, PPM and BMP are read"
_LAYOUT = "put the images of each class into a folder of its own, as in DIR/CLASS/IMAGE.png"
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z")


def list_folder(folder: Path, *, where: str, split: str = "test", alpha: str | None = None) -> Listing:
    """List the images of a folder with a sub-folder a class, or with such folders under train, val, test.

    Args:
        folder: The folder.
        where: What messages call it.
        split: Which split, where there are some; ``"none"`` where the folders are classes whatever they
            look like. See :func:`~robustbench_local.data.folder_layout.find_classes`.
        alpha: Background for transparent images.

    Returns:
        The images, by class and then by name; ids are paths relative to the folder of the classes.
        Sub-folders whose names are all numbers give these numbers as class indices.

    Raises:
        DataError: If the folder is missing, unreadable, or laid out in another way, it is not clear which
            folders are classes, or a class has images in formats that are not read and no others.
    """
    _folders(folder, where)
    try:
        root, layout_notes = find_classes(folder, split, where)
    except OSError as error:
        raise _unreadable(error, where) from None
    label_map, class_names = index_labels((path.name for path in _folders(root, where)), where)
    if not label_map:
        raise _layout_error(root, where)
    beside = _Beside(where)
    beside.count_files(path for path in root.iterdir() if path.is_file())
    files: list[Path] = []
    labels: list[int] = []
    for name, label in label_map.items():
        found = _images_under(root / name, beside, label)
        files += found
        labels += [label] * len(found)
        beside.close_class(name, has_images=bool(found))
    if not files:
        raise _layout_error(root, where, beside.kinds)
    beside.refuse_lost_classes()

    def read(position: int) -> Picture:
        path = files[position]
        return read_picture(path, where=f"{where}, {_identify(path, root)}", alpha=alpha)

    return Listing(
        name=folder.resolve().name,
        where=where,
        ids=[_identify(path, root) for path in files],
        labels=np.array(labels, dtype=np.int64),
        class_names=class_names,
        label_map={_printable(name): label for name, label in label_map.items()},
        read=read,
        notes=(*layout_notes, *beside.notes()),
        unread=tuple((_identify(path, root), label, kind) for path, label, kind in beside.unread),
    )


class _Beside:
    """What lies beside the images that are read: other files, images in other formats, empty classes.

    Args:
        where: What messages call the folder.
    """

    def __init__(self, where: str) -> None:
        self.kinds: Counter[str] = Counter()
        self.unread: list[tuple[Path, int, str]] = []
        self.where = where
        self._empty: list[str] = []
        self._lost: list[tuple[str, Counter[str]]] = []
        self._in_class: Counter[str] = Counter()

    def count_files(self, paths: Iterable[Path], label: int | None = None) -> None:
        """Count files that are not read; images in other formats are remembered with their class."""
        for path in paths:
            self.kinds[_kind(path)] += 1
            if label is None:
                continue
            found = unread_format(path)
            if found is not None:
                self.unread.append((path, label, f"a {found} image, a format that is not read"))
            if found is not None or may_hold_data(path):
                self._in_class[_kind(path)] += 1

    def set_aside(self, path: Path, label: int, kind: str, reason: str) -> None:
        """Remember what may hold images of a class and is not looked into."""
        self.kinds[kind] += 1
        self._in_class[kind] += 1
        self.unread.append((path, label, reason))

    def close_class(self, name: str, *, has_images: bool) -> None:
        """The files of a class have been counted."""
        if not has_images and self._in_class:
            self._lost.append((name, self._in_class))
        elif not has_images:
            self._empty.append(name)
        self._in_class = Counter()

    def refuse_lost_classes(self) -> None:
        """Stop where a class has files, and none that can be read: its images would be missing in silence.

        Raises:
            DataError: Naming the first such class.
        """
        if not self._lost:
            return
        name, kinds = self._lost[0]
        more = f" (and {len(self._lost) - 1} more such classes)" if len(self._lost) > 1 else ""
        what = f"the class {_printable(name)} has no image that is read, only {_listed(kinds)}{more}"
        remedy = f"{_READ_FORMATS}: convert them, or move the folder away"
        raise DataError(what, where=self.where, remedy=remedy)

    def notes(self) -> tuple[str, ...]:
        """What a reader should know."""
        aside = (f"files left aside: {_listed(self.kinds)}",) if self.kinds else ()
        names = ", ".join(map(_printable, self._empty))
        return (*aside, f"class folders without images: {names}") if names else aside


def _folders(folder: Path, where: str) -> list[Path]:
    try:
        return subfolders(folder)
    except FileNotFoundError:
        raise DataError("there is no such folder", where=where, remedy="check the path") from None
    except NotADirectoryError:
        packed = folder.suffix.lower() in _ARCHIVES
        remedy = (
            "unpack the archive and name the folder"
            if packed
            else "name the folder that holds the class folders"
        )
        raise DataError("is a file, not a folder", where=where, remedy=remedy) from None
    except OSError as error:
        raise _unreadable(error, where) from None


def _images_under(folder: Path, beside: _Beside, label: int) -> list[Path]:
    """Image files of a class, sorted, its sub-folders included; all others are counted as ``beside``."""

    def fail(error: OSError) -> None:
        raise _unreadable(error, beside.where)

    images: list[Path] = []
    for parent, folders, files in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        for path in (Path(parent, name) for name in folders if Path(parent, name).is_symlink()):
            beside.set_aside(path, label, "linked folder", "a link to a folder, which is not followed")
        for path in (Path(parent, name) for name in sorted(files)):
            if path.name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                beside.count_files([path], label)
            elif path.is_file() or path.is_symlink():
                images.append(path)
            else:
                beside.set_aside(path, label, "pipe or device", "no regular file")
    return images


def _unreadable(error: OSError, where: str) -> DataError:
    what = f"cannot be read: {error.strerror}"
    return DataError(what, where=where, remedy="check the permissions of the folder and what it holds")


def _layout_error(root: Path, where: str, aside: Counter[str] | None = None) -> DataError:
    if aside is not None:
        found = f", only {_listed(aside)}" if aside else ""
        remedy = f"{_READ_FORMATS}: convert the others"
        return DataError(f"there are no images in the class folders{found}", where=where, remedy=remedy)
    loose = sum(1 for path in root.iterdir() if path.suffix.lower() in SUFFIXES)
    what = f"has {loose} images but no class folders" if loose else "is empty: there are no class folders"
    return DataError(what, where=where, remedy=_LAYOUT)


def _kind(path: Path) -> str:
    return "hidden" if path.name.startswith(".") else path.suffix.lower() or "without a suffix"


def _listed(aside: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(aside.items()))


def _identify(path: Path, root: Path) -> str:
    return _printable(path.relative_to(root).as_posix())


def _printable(name: str) -> str:
    """The name as valid Unicode, whatever bytes the file system has."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
