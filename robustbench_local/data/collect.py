"""From a listing of what a source offers to a data set of the images that are used."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_local.data.dataset import Dataset
from robustbench_local.data.decode import BadImageError, DecodedImage, Pixels, is_colour
from robustbench_local.data.resize import resize_and_crop
from robustbench_local.errors import ConfigError, DataError

ProgressCallback = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What the user declared about reading images.

    Args:
        size: Height and width of all images; None keeps them as they are.
        resize: See :func:`~robustbench_local.data.resize.resize_and_crop`.
        gray_to_rgb: Whether grey images become RGB by repeating their channel.
        alpha: Background colour for transparent images.
        max_bad: How many unusable images are set aside rather than being an error.
        count_unread: Whether images in formats that are not read count as unusable: where a gate is judged,
            a set that shrinks in silence could pass it.

    Raises:
        ConfigError: If a value makes no sense.
    """

    size: tuple[int, int] | None = None
    resize: int | Literal["stretch"] | None = None
    gray_to_rgb: bool = False
    alpha: str | None = None
    max_bad: int = 0
    count_unread: bool = False

    def __post_init__(self) -> None:
        if self.max_bad < 0:
            raise ConfigError(f"max_bad must be 0 or more, got {self.max_bad}")
        if self.alpha is not None and not is_colour(self.alpha):
            remedy = "write a name such as white, or a value such as #808080"
            raise ConfigError(f"alpha: {self.alpha!r} is not a colour", remedy=remedy)
        if self.resize is None:
            return
        if self.size is None:
            raise ConfigError("resize needs size", remedy="say which size to cut out, such as size: 224")
        if self.resize != "stretch" and self.resize < max(self.size):
            raise ConfigError(f"resize {self.resize} is smaller than size {max(self.size)}")


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a source offers, before any image is decoded.

    Args:
        name: Short name of the data set.
        where: What messages call the source.
        ids: One stable id an image.
        labels: Class indices, (N,), int64.
        class_names: Name of each class index.
        label_map: Label as in the source -> index.
        read: Decodes the image at a position; may raise ``BadImageError``.
        masks: Where the object is, (N, H, W), bool.
        surface: What the masks are, as a report names them; empty without masks.
        notes: What the reader of the report should know.
        usual_size: Height and width that the field brings the images to, where they come in many sizes.
        groups: Which images show the same object, one name an image.
        unread: Images in formats that are not read: id, class index and what they are.
    """

    name: str
    where: str
    ids: Sequence[str]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    label_map: dict[str, int]
    read_image: Callable[[int], DecodedImage]
    masks: NDArray[np.bool_] | None = None
    surface: str = ""
    notes: tuple[str, ...] = ()
    standard_size: tuple[int, int] | None = None
    groups: Sequence[str] | None = None
    unread_images: tuple[tuple[str, int, str], ...] = ()


def collect_dataset(
    listing: Listing, positions: Sequence[int], options: ReadOptions, progress: ProgressCallback | None = None
) -> Dataset:
    """Decode the chosen images, bring them to one shape, and say what was done.

    Args:
        listing: The source.
        positions: Which images, in this order.
        options: What the user declared.
        progress: Called with (images read, images in all) after each.

    Raises:
        DataError: If more than ``options.max_bad`` images are unusable, none is left (F33), sizes differ
            (F48), or grey images stand among coloured ones (F42).
    """
    unread = [(one, reason) for one, _, reason in listing.unread_images]
    if options.count_unread:
        _check_quarantine(unread, len(positions), options.max_bad, listing.where)
    read = _decode_images(listing, positions, options, progress)
    counted = [*read.bad_images, *unread] if options.count_unread else read.bad_images
    _check_quarantine(counted, len(read.arrays), options.max_bad, listing.where)
    ids = tuple(listing.ids[position] for position in read.kept_positions)
    labels = listing.labels[read.kept_positions]
    _check_sizes(read.arrays, ids, listing.where)
    _check_bytes(read.arrays, listing.where)
    copies = _note_duplicates(read.arrays, ids, labels)
    done = (f"{_format_image_count(count)}: {what}" for what, count in read.notes.items())
    gray = _unify_channels(read.arrays, ids, options, listing.where)
    return Dataset(
        images=_stack_images(read.arrays),
        labels=torch.from_numpy(labels),
        ids=ids,
        class_names=listing.class_names,
        name=listing.name,
        masks=None if listing.masks is None else _stack_masks(listing.masks[read.kept_positions], options),
        surface=listing.surface,
        label_map=listing.label_map,
        quarantined=(*read.bad_images, *unread),
        notes=(*listing.notes, *done, *gray, *copies),
        groups=None if listing.groups is None else tuple(listing.groups[row] for row in read.kept_positions),
    )


@dataclass
class _DecodedImages:
    """What came of decoding: positions and pixels of the sound images, and the others with the reason."""

    kept_positions: list[int] = field(default_factory=list)
    arrays: list[Pixels] = field(default_factory=list)
    bad_images: list[tuple[str, str]] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)


def _decode_images(
    listing: Listing, positions: Sequence[int], options: ReadOptions, progress: ProgressCallback | None
) -> _DecodedImages:
    read = _DecodedImages()
    for done, position in enumerate(positions, start=1):
        try:
            picture = listing.read_image(position)
        except BadImageError as error:
            read.bad_images.append((listing.ids[position], str(error)))
        else:
            pixels = picture.pixels
            if options.size is not None:
                pixels = resize_and_crop(pixels, options.size, options.resize)
            if not read.arrays:
                _check_memory(pixels.size, len(positions), listing.where)
            read.notes.update(picture.notes)
            read.kept_positions.append(position)
            read.arrays.append(pixels)
        if progress is not None:
            progress(done, len(positions))
    return read


def _check_memory(values: int, count: int, where: str) -> None:
    """Say before the time is spent that the images will not fit (Linux and macOS)."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    needed = values * count * 5  # 4 bytes as float32, and one more as they were read
    if needed > machine:
        what = f"{count} images need {needed / 1e9:.0f} GB and this machine has {machine / 1e9:.0f} GB"
        raise DataError(what, where=where, remedy="set a limit, or a smaller size")


def _check_quarantine(bad: Sequence[tuple[str, str]], good: int, max_bad: int, where: str) -> None:
    if len(bad) <= max_bad and good:
        return
    if not bad:
        raise DataError("there are no images", where=where, remedy="check the path, the split and the limit")
    first = ", ".join(f"{file} ({reason})" for file, reason in bad[:3]) + (", ..." if len(bad) > 3 else "")
    remedy = "repair or remove them" + (f", or set max_bad: {len(bad)} to go on without them" if good else "")
    raise DataError(f"{_format_image_count(len(bad))} cannot be used: {first}", where=where, remedy=remedy)


def _check_sizes(arrays: Sequence[Pixels], ids: Sequence[str], where: str) -> None:
    height, width = arrays[0].shape[:2]
    for array, one in zip(arrays, ids, strict=True):
        if array.shape[:2] != (height, width):
            what = (
                f"sizes differ: {ids[0]} is {width}x{height} and {one} is {array.shape[1]}x{array.shape[0]}"
            )
            raise DataError(what, where=where, remedy="declare the size to bring them to, such as size: 224")


def _check_bytes(arrays: Sequence[Pixels], where: str) -> None:
    """Refuse images of bytes that are only 0 and 1, as masks are saved: divided by 255 all would be black."""
    if any(array.dtype != np.uint8 for array in arrays) or max(int(array.max()) for array in arrays) != 1:
        return
    what = "all images hold only the values 0 and 1: with white at 255 they would be black"
    raise DataError(what, where=where, remedy="save them with 255 for white")


def _unify_channels(
    arrays: list[Pixels], ids: Sequence[str], options: ReadOptions, where: str
) -> tuple[str, ...]:
    gray = [row for row, array in enumerate(arrays) if array.shape[2] == 1]
    if not options.gray_to_rgb and len(gray) in (0, len(arrays)):
        return ()
    if not options.gray_to_rgb:
        what = f"{len(gray)} of {len(arrays)} images are grey among coloured ones, the first: {ids[gray[0]]}"
        remedy = "set gray_to_rgb: true to repeat their one channel, or remove them"
        raise DataError(what, where=where, remedy=remedy)
    for row in gray:
        arrays[row] = np.repeat(arrays[row], 3, axis=2)
    return (f"{_format_image_count(len(gray))}: grey, repeated to RGB",) if gray else ()


def _note_duplicates(
    arrays: Sequence[Pixels], ids: Sequence[str], labels: NDArray[np.int64]
) -> tuple[str, ...]:
    """Note images that are there twice (F53); with two labels, one of them has to be wrong."""
    first: dict[bytes, int] = {}
    copies: list[tuple[int, int]] = []
    for row, array in enumerate(arrays):
        content = hashlib.sha256(f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes()).digest()
        if content in first:
            copies.append((first[content], row))
        else:
            first[content] = row
    if not copies:
        return ()
    contradicting = sum(1 for one, other in copies if labels[one] != labels[other])
    one, other = copies[0]
    tail = f", {contradicting} of them with another label" if contradicting else ""
    return (
        f"{_format_image_count(len(copies))}: exact copies of others{tail}, the first: {ids[other]} of {ids[one]}",
    )


def _stack_images(arrays: Sequence[Pixels]) -> Tensor:
    height, width, channels = arrays[0].shape
    images = np.empty((len(arrays), channels, height, width), dtype=np.float32)
    for row, array in enumerate(arrays):
        images[row] = array.transpose(2, 0, 1)
        if array.dtype == np.uint8:
            images[row] /= 255
    return torch.from_numpy(images)


def _stack_masks(masks: NDArray[np.bool_], options: ReadOptions) -> Tensor:
    if options.size is not None:
        shades = masks.astype(np.float32)[..., None]
        masks = np.stack(
            [resize_and_crop(shade, options.size, options.resize)[..., 0] >= 0.5 for shade in shades]
        )
    return torch.from_numpy(np.ascontiguousarray(masks[:, None]))


def _format_image_count(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
