"""``npz:FILE``: arrays of images and labels in a NumPy archive."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from robustbench_local.config.user_files import open_user_file
from robustbench_local.config.zip_bombs import check_zip_bomb
from robustbench_local.counted_nouns import format_count
from robustbench_local.data.archive_array import ArchiveArray, find_large_array
from robustbench_local.data.class_labels import index_labels
from robustbench_local.data.collect import Listing
from robustbench_local.data.dataset import MAX_CLASSES, build_class_names, format_rows
from robustbench_local.data.decode import DecodedImage, convert_image
from robustbench_local.data.pixel_array import PixelArray, load_array
from robustbench_local.data.pixel_scale import PixelScale, find_scale
from robustbench_local.data.sign_boxes import build_box_masks
from robustbench_local.errors import ConfigError, DataError, RefusedError

Arrays = Mapping[str, NDArray[Any] | ArchiveArray]

_ID_KEYS = ("ids", "filenames", "index")
_GROUP_KEYS = ("track", "tracks", "group", "groups")
# Raised by zipfile and NumPy for damaged archives; a damaged array header is parsed as Python literals.
_CORRUPT_ERRORS = (
    OSError, EOFError, ValueError, LookupError, SyntaxError, MemoryError, NotImplementedError,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class NpzKeys:
    """The arrays of the archive to use; None looks for the usual names.

    Args:
        images: Default ``x``, ``images`` or ``x_SPLIT``.
        labels: Default ``y``, ``labels`` or ``y_SPLIT``.
        masks: Default ``mask`` or ``masks``, if there is one.
        boxes: Edges of each image's object, instead of masks; default ``box`` or ``boxes``, if there are no
            masks; see :func:`~robustbench_local.data.sign_boxes.build_box_masks`.
        groups: Number or name, within its class, of the object that each image shows; default ``track`` or
            ``group``, if there is one.
    """

    images: str | None = None
    labels: str | None = None
    masks: str | None = None
    boxes: str | None = None
    groups: str | None = None


def list_npz(
    file: Path,
    *,
    where: str,
    split: str = "test",
    keys: NpzKeys | None = None,
    alpha: str | None = None,
    scale: float | None = None,
) -> Listing:
    """List the images of a NumPy archive.

    Args:
        file: The archive. Images are (N, H, W, C), (N, C, H, W) or (N, H, W); uint8, uint16, bool or
            floating point in [0, 1]. Labels are (N,) integers or strings. ``class_names``, masks ((H, W) or
            (N, H, W)), boxes and ids (``ids``, ``filenames`` or ``index``, if unique) are optional.
        where: Its name in messages.
        split: Suffix of array names such as ``x_test``.
        keys: The arrays to use.
        alpha: Background for images with four channels.
        scale: The value of white, if the array's type does not imply it.

    Raises:
        ConfigError: If both masks and boxes are named.
        DataError: If the file or an array in it cannot be used; for a missing array the message lists the
            existing ones.
        RefusedError: If it holds pickled objects, which could run code, or is a decompression bomb (F52).
    """
    keys = keys or NpzKeys()
    arrays = _load_arrays(file, where)
    pixels = PixelArray(
        _find_entry(arrays, keys.images, ("x", "images", f"x_{split}"), "images", where), where
    )
    raw = _find_array(arrays, keys.labels, ("y", "labels", f"y_{split}"), "labels", where)
    named = load_array(arrays["class_names"]) if "class_names" in arrays else None
    labels, class_names, label_map = _convert_labels(raw, named, where)
    if len(labels) != len(pixels):
        raise DataError(
            f"{format_count(len(pixels), 'image')} but {format_count(len(labels), 'label')}", where=where
        )
    pixel_scale = _find_pixel_scale(pixels, scale, where)
    groups = _find_groups(arrays, keys.groups, labels, where)
    masks, surface = _find_objects(arrays, keys, pixels, where)

    def read(position: int) -> DecodedImage:
        image = pixels.read_image(position)
        if image.shape[2] == 4:
            return convert_image(Image.fromarray(image), where=f"{where}, row {position}", alpha=alpha)
        return DecodedImage(
            image if pixel_scale.white is None else image.astype(np.float32) / np.float32(pixel_scale.white)
        )

    return Listing(
        name=file.stem,
        where=where,
        ids=_find_ids(arrays, len(pixels), file.stem),
        labels=labels,
        class_names=class_names,
        label_map=label_map,
        read_image=read,
        masks=masks,
        surface=surface,
        notes=pixel_scale.notes,
        groups=groups,
        part=next(name for name in (keys.images, "x", "images", f"x_{split}") if name and name in arrays),
    )


def _load_arrays(file: Path, where: str) -> Arrays:
    """Load the arrays of an archive; large ones are only looked up."""
    if not file.is_file():
        raise DataError("there is no such file", where=where, remedy="check the path")
    opened = open_user_file(file, where=where, error=DataError)
    try:
        if not zipfile.is_zipfile(opened):
            raise DataError("is not a NumPy archive", where=where, remedy="write it with numpy.savez")
        check_zip_bomb(
            opened, where=where, error=DataError, remedy="save it with numpy.savez, not compressed"
        )
        opened.seek(0)
        with np.load(opened, allow_pickle=False) as loaded:
            arrays = {
                name: find_large_array(loaded.zip, name, file, where) or loaded[name] for name in loaded.files
            }
            return {
                name: array for name, array in arrays.items() if isinstance(array, np.ndarray | ArchiveArray)
            }
    except _CORRUPT_ERRORS as error:
        if "Object arrays" in str(error):
            remedy = "save plain arrays: numbers or strings, not dtype object"
            raise RefusedError(
                "holds pickled objects, which could run code", where=where, remedy=remedy
            ) from None
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"cannot be read: {reason}", where=where, remedy="write or copy it again") from None
    finally:
        opened.close()


def _find_array(
    arrays: Arrays, key: str | None, default_names: Sequence[str], what: str, where: str
) -> NDArray[Any]:
    return load_array(_find_entry(arrays, key, default_names, what, where))


def _find_entry(
    arrays: Arrays, key: str | None, default_names: Sequence[str], what: str, where: str
) -> NDArray[Any] | ArchiveArray:
    matches = [name for name in ([key] if key else default_names) if name in arrays]
    if len(matches) > 1:
        problem = f"several arrays could be the {what}: {', '.join(matches)}"
        raise DataError(problem, where=where, remedy=f"select one with {what}_key")
    if matches:
        return arrays[matches[0]]
    wanted = repr(key) if key else " or ".join(repr(name) for name in default_names)
    existing = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in arrays.items())
    remedy = f"name the array of {what} with {what}_key; the file has {existing or 'none'}"
    raise DataError(f"has no {what}: no array {wanted}", where=where, remedy=remedy)


def _find_pixel_scale(pixels: PixelArray, declared: float | None, where: str) -> PixelScale:
    pixel_scale = find_scale(pixels, declared, where)
    if pixels.shape[3] == 4 and pixel_scale.white is not None:
        raise DataError("images with an alpha channel must be uint8, without scale", where=where)
    return pixel_scale


def _convert_labels(
    raw: NDArray[Any], named: NDArray[Any] | None, where: str
) -> tuple[NDArray[np.int64], tuple[str, ...], dict[str, int]]:
    labels = raw.reshape(-1) if raw.shape[:1] == (raw.size,) else raw
    if labels.ndim != 1 or labels.dtype.kind not in "iuU":
        what = f"labels must be integers or strings, (N,), got {raw.dtype} {raw.shape}"
        raise DataError(what, where=where, remedy="save one class number per image, as int64")
    if labels.dtype.kind != "U" and (labels.astype(np.int64) < 0).any():
        rows = format_rows(torch.from_numpy(labels.astype(np.int64) < 0))
        raise DataError("labels are negative", where=f"{where}, {rows}", remedy="number the classes from 0")
    distinct, inverse = np.unique(labels, return_inverse=True)
    names = [str(value) for value in distinct.tolist()]
    if named is None:
        label_map, class_names = index_labels(names, where)
    else:
        class_names = tuple(str(name) for name in named.astype(str).reshape(-1))
        known = (
            class_names if labels.dtype.kind == "U" else build_class_names(min(len(class_names), MAX_CLASSES))
        )
        label_map = {name: index for index, name in enumerate(known) if name in names}
        for name in names:
            if name not in label_map:
                rows = format_rows(torch.from_numpy(labels == distinct[names.index(name)]))
                what = f"label {name} has no class: there are {len(class_names)} class_names"
                raise DataError(
                    what, where=f"{where}, {rows}", remedy="number the classes from 0 as class_names does"
                )
    table = np.array([label_map[name] for name in names], dtype=np.int64)
    return table[inverse.reshape(-1)], class_names, label_map


def _find_objects(
    arrays: Arrays, keys: NpzKeys, pixels: PixelArray, where: str
) -> tuple[NDArray[np.bool_] | None, str]:
    """Return the object's mask in each image, (N, H, W), and its description, if the archive has one."""
    if keys.masks and keys.boxes:
        what = f"masks_key {keys.masks!r} and boxes_key {keys.boxes!r} both locate the object"
        raise ConfigError(what, where=where, remedy="keep one of them")
    masks, boxes = (
        [key] if key else [name for name in default_names if name in arrays]
        for key, default_names in ((keys.masks, ("mask", "masks")), (keys.boxes, ("box", "boxes")))
    )
    if masks and not keys.boxes:
        result = _convert_masks(_find_array(arrays, None, masks, "masks", where), pixels, where)
        return result, f"the mask {masks[0]!r}"
    if boxes:
        result = build_box_masks(_find_array(arrays, None, boxes, "boxes", where), pixels.shape[:3], where)
        return result, f"the box {boxes[0]!r}"
    return None, ""


def _convert_masks(array: NDArray[Any], pixels: PixelArray, where: str) -> NDArray[np.bool_]:
    size: tuple[int, ...] = pixels.shape[:3]
    masks = array.reshape(array.shape[:1] + tuple(side for side in array.shape[1:] if side != 1))
    if masks.ndim == 2:
        masks = np.broadcast_to(masks, (size[0], *masks.shape))
    if masks.shape != size:
        raise DataError(f"masks of shape {array.shape} do not fit images of shape {size}", where=where)
    return masks.astype(np.bool_)


def _find_groups(arrays: Arrays, key: str | None, labels: NDArray[np.int64], where: str) -> list[str] | None:
    """Return class and object of each image; objects of two classes may share a number."""
    names = [key] if key else [name for name in _GROUP_KEYS if name in arrays]
    if not names:
        return None
    objects = _find_array(arrays, None, names, "groups", where).reshape(-1)
    if len(objects) != len(labels):
        raise DataError(
            f"{format_count(len(labels), 'label')} but {format_count(len(objects), 'group')} in {names[0]!r}",
            where=where,
        )
    return [f"{label}/{name}" for label, name in zip(labels.tolist(), objects.tolist(), strict=True)]


def _find_ids(arrays: Arrays, count: int, name: str) -> list[str]:
    for key in _ID_KEYS:
        values = list(map(str, load_array(arrays[key]).reshape(-1).tolist())) if key in arrays else []
        if len(values) == count == len(set(values)):
            return [f"{name}/{value}" for value in values]
    return [f"{name}/{row}" for row in range(count)]
