"""``folder:DIR``: a folder of images for each class."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np

from robustbench_local.data.collect import Listing
from robustbench_local.data.decode import SUFFIXES, Picture, read_picture
from robustbench_local.data.labels import index_labels
from robustbench_local.errors import DataError

_LAYOUT = "put the images of each class into a folder of its own, as in DIR/CLASS/IMAGE.png"
_SPLITS: tuple[tuple[str, ...], ...] = (
    ("train", "training"),
    ("val", "valid", "validation"),
    ("test", "testing"),
)
_SPLIT_NAMES = {name for names in _SPLITS for name in names}
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z")


def list_folder(folder: Path, *, where: str, split: str = "test", alpha: str | None = None) -> Listing:
    """List the images of a folder with a sub-folder a class, or with such folders under train, val, test.

    Args:
        folder: The folder.
        where: What messages call it.
        split: Used where all sub-folders are splits.
        alpha: Background for transparent images.

    Returns:
        The images, by class and then by name; ids are paths relative to the folder of the classes.
        Sub-folders whose names are all numbers give these numbers as class indices.

    Raises:
        DataError: If the folder is missing, unreadable, or laid out in another way.
    """
    root = _split_folder(folder, split, where)
    label_map, class_names = index_labels((path.name for path in _folders(root, where)), where)
    if not label_map:
        raise _layout_error(root, where)
    files: list[Path] = []
    labels: list[int] = []
    aside: Counter[str] = Counter(_kind(path) for path in root.iterdir() if path.is_file())
    empty: list[str] = []
    for name, label in label_map.items():
        found = _images_under(root / name, aside, where)
        files += found
        labels += [label] * len(found)
        if not found:
            empty.append(name)
    if not files:
        raise _layout_error(root, where, aside)

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
        notes=(*_aside(aside), *_empty(empty)),
    )


def _split_folder(folder: Path, split: str, where: str) -> Path:
    names = {path.name for path in _folders(folder, where)}
    if not names or not names <= _SPLIT_NAMES:
        return folder
    wanted = next((group for group in _SPLITS if split in group), (split,))
    for name in (split, *wanted):
        if name in names:
            return folder / name
    remedy = f"set split to one of {', '.join(sorted(names))}"
    raise DataError(f"there is no split {split!r}", where=where, remedy=remedy)


def _folders(folder: Path, where: str) -> list[Path]:
    try:
        return sorted(
            path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))
        )
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


def _images_under(folder: Path, aside: Counter[str], where: str) -> list[Path]:
    """Image files of a class, sorted, its sub-folders included; all others are counted in ``aside``."""

    def fail(error: OSError) -> None:
        raise _unreadable(error, where)

    images: list[Path] = []
    for parent, folders, files in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        for path in (Path(parent, name) for name in sorted(files)):
            if path.name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                aside[_kind(path)] += 1
            elif path.is_file() or path.is_symlink():
                images.append(path)
    return images


def _unreadable(error: OSError, where: str) -> DataError:
    what = f"cannot be read: {error.strerror}"
    return DataError(what, where=where, remedy="check the permissions of the folder and what it holds")


def _layout_error(root: Path, where: str, aside: Counter[str] | None = None) -> DataError:
    if aside is not None:
        found = f", only {_listed(aside)}" if aside else ""
        remedy = "PNG, JPEG, PPM and BMP are read: convert the others"
        return DataError(f"there are no images in the class folders{found}", where=where, remedy=remedy)
    loose = sum(1 for path in root.iterdir() if path.suffix.lower() in SUFFIXES)
    what = f"has {loose} images but no class folders" if loose else "is empty: there are no class folders"
    return DataError(what, where=where, remedy=_LAYOUT)


def _kind(path: Path) -> str:
    return "hidden" if path.name.startswith(".") else path.suffix.lower() or "without a suffix"


def _listed(aside: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(aside.items()))


def _aside(aside: Counter[str]) -> tuple[str, ...]:
    return (f"files left aside: {_listed(aside)}",) if aside else ()


def _empty(names: list[str]) -> tuple[str, ...]:
    return (f"class folders without images: {', '.join(map(_printable, names))}",) if names else ()


def _identify(path: Path, root: Path) -> str:
    return _printable(path.relative_to(root).as_posix())


def _printable(name: str) -> str:
    """The name as valid Unicode, whatever bytes the file system has."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
