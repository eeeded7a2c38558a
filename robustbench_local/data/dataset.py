"""Dataset: images in [0, 1] with labels, ids and class names, validated at construction."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.counted_nouns import format_count
from robustbench_local.data.exclusion import Exclusion
from robustbench_local.data.stored_images import MAX_LOADED_IMAGES, StoredImages
from robustbench_local.errors import DataError

MAX_OVERSHOOT = 1e-6
"""Largest distance of a pixel from [0, 1] by rounding alone; such pixels are clamped, with a note."""
MAX_INTERPOLATION_OVERSHOOT = 0.05
"""Largest overshoot that resizing with a sharp kernel explains; only a message depends on it."""
MAX_CLASSES = 100_000  # a larger label is an identifier, not an index


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Dataset:
    """Images with all the metadata that an evaluation and its report need.

    Args:
        images: (N, C, H, W), float32, every value in [0, 1]. Many large images are on the disk (see
            ``StoredImages``): indexing gives a tensor, and ``iterate_batches`` reads all of them in parts.
        labels: Class indices, (N,), int64, in ``range(len(class_names))``.
        ids: One unique name per image, independent of the limit, the order and the subset.
        class_names: Name of each class index; ``("0", "1", ...)`` when the source has no names.
        name: Short name for reports and messages.
        masks: Pixels of the object, (N, 1, H, W), bool.
        surface: Description of the masks for reports, e.g. ``the mask 'rect'``; empty without masks or if
            unknown.
        label_map: Label in the source -> class index; empty when the source's labels are the indices.
        quarantined: Files that could not be used, each with the reason.
        notes: Remarks for the reader of the report about how the images were read.
        groups: Name of the object that each image shows, if known: images of one object must not be on both
            sides of a split, and intervals of accuracies are over objects.
        preparation: How images of other sizes were resized and cropped; None if none were, or if unknown.
        exclusion: The table that left images out, and which; None without one.

    Raises:
        DataError: If there is no image (F33), a shape or dtype is wrong, a value is NaN or outside [0, 1]
            (F49, F50, diagnostic D1), a label is out of range (F36), or ids repeat. Values at most 1e-6
            outside, as rounding produces, are clamped instead, with a note.
    """

    images: Tensor
    labels: Tensor
    ids: tuple[str, ...]
    class_names: tuple[str, ...]
    name: str
    masks: Tensor | None = None
    surface: str = ""
    label_map: dict[str, int] = field(default_factory=dict)
    quarantined: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    groups: tuple[str, ...] | None = None
    preparation: InputContract | None = None
    exclusion: Exclusion | None = None

    def __post_init__(self) -> None:
        if isinstance(self.images, StoredImages):  # their values were checked when they were decoded
            _check_layout(self.images, self.name)
            outside = 0
        else:
            outside = check_pixel_values(self.images, self.name)
        if outside:
            object.__setattr__(self, "images", self.images.clamp(0, 1))
            object.__setattr__(self, "notes", (*self.notes, format_clamped(outside)))
        _check_labels(self.labels, len(self.class_names), self.name)
        if not len(self.images) == len(self.labels) == len(self.ids):
            counts = (
                f"{format_count(len(self.images), 'image')}, {format_count(len(self.labels), 'label')} and "
            )
            counts += f"{format_count(len(self.ids), 'id')}"
            raise DataError(f"{counts}: the numbers must agree", where=self.name)
        if self.groups is not None and len(self.groups) != len(self.images):
            what = f"{format_count(len(self.images), 'image')} but {format_count(len(self.groups), 'group')}"
            raise DataError(what, where=self.name)
        if len(set(self.ids)) < len(self.ids):
            repeated = next(name for position, name in enumerate(self.ids) if name in self.ids[:position])
            raise DataError(
                f"the id {repeated!r} occurs twice", where=self.name, remedy="give each image its own id"
            )
        if self.masks is not None:
            _check_masks(self.masks, self.images, self.name)

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        shape = "x".join(str(size) for size in self.images.shape[1:])
        masks = "" if self.masks is None else ", masks"
        images = format_count(len(self), "image")
        return (
            f"Dataset({self.name!r}, {images} of {shape}, {format_count(self.num_classes, 'class')}{masks})"
        )

    @property
    def num_classes(self) -> int:
        """Number of classes, including those without an image."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def has_class_names(self) -> bool:
        """True if the classes have names other than their numbers."""
        return has_class_names(self.class_names)

    @property
    def group_by_image(self) -> dict[str, str]:
        """Image id -> its group; empty if the images are independent, each in a group of its own."""
        if self.groups is None or len(set(self.groups)) == len(self):
            return {}
        return dict(zip(self.ids, self.groups, strict=True))

    def compute_digest(self) -> str:
        """Return the SHA-256 over ids, labels, images and masks; it is the same on every machine."""
        hasher = hashlib.sha256()
        for image_id in self.ids:
            hasher.update(image_id.encode("utf-8", "backslashreplace") + b"\0")
        for tensor in (self.labels, self.images, self.masks):
            if tensor is not None:
                hasher.update(f"{tuple(tensor.shape)}{tensor[:0].numpy().dtype.str}".encode())
                for part in _iterate_parts(tensor):
                    array = np.ascontiguousarray(part.numpy())
                    hasher.update(array.reshape(-1).view(np.uint8).data)
        return hasher.hexdigest()

    def load_images(self) -> Dataset:
        """Return the data with its images in memory; the data themselves if they are."""
        stored = isinstance(self.images, StoredImages)
        return replace(self, images=self.images[torch.arange(len(self))]) if stored else self

    def select_images(self, indices: Sequence[int] | Tensor) -> Dataset:
        """Return the images at these positions, in this order, with all other fields unchanged."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return replace(
            self,
            images=_select_rows(self.images, chosen),
            labels=self.labels[chosen],
            ids=tuple(self.ids[position] for position in chosen.tolist()),
            masks=None if self.masks is None else self.masks[chosen],
            groups=None if self.groups is None else tuple(self.groups[row] for row in chosen.tolist()),
        )


def format_clamped(count: int) -> str:
    """Format the note about images whose values are outside [0, 1] by rounding alone."""
    return f"{format_count(count, 'image')}: values up to {MAX_OVERSHOOT:g} outside [0, 1], clamped"


def as_images(images: Tensor | StoredImages) -> Tensor:
    """Return images as the type that most code expects: stored images are tensors to who indexes them."""
    return cast("Tensor", images)


def _select_rows(images: Tensor | StoredImages, rows: Tensor) -> Tensor:
    """Return some images; many stored ones stay on the disk."""
    if isinstance(images, StoredImages) and len(rows) > MAX_LOADED_IMAGES:
        return as_images(images.select_rows(rows))
    return images[rows]


def _iterate_parts(tensor: Tensor) -> Iterable[Tensor]:
    return tensor.iterate_batches() if isinstance(tensor, StoredImages) else (tensor,)


def has_class_names(class_names: tuple[str, ...]) -> bool:
    """Return True if classes have names other than their numbers."""
    return class_names != build_class_names(len(class_names))


def as_dataset(data: Dataset | tuple[Tensor, Tensor], name: str = "tensors") -> Dataset:
    """Return a data set unchanged, or build one from an (images, labels) pair.

    Args:
        data: A :class:`Dataset`, or images (N, C, H, W), uint8, bool or floating point in [0, 1],
            with integer labels (N,).
        name: Name of the new data set; its ids are ``name/0``, ``name/1``, ...

    Returns:
        The data set, its tensors on the CPU; uint8 images are divided by 255.

    Raises:
        DataError: If the tensors are not such images and labels.
    """
    if isinstance(data, Dataset):
        return data
    try:
        images, labels = (torch.as_tensor(part).detach().cpu() for part in data)
    except (TypeError, ValueError, RuntimeError):
        raise DataError("data must be a Dataset or a pair (images, labels) of tensors", where=name) from None
    if images.dtype == torch.uint8:
        _check_zeros_and_ones(images, name)
        images = images.float() / 255
    elif images.dtype == torch.bool or images.is_floating_point():
        images = images.float()
    if not labels.is_floating_point() and labels.dtype not in (torch.bool, torch.int64):
        labels = labels.long()
    count = int(labels.max()) + 1 if labels.numel() else 0
    if count > MAX_CLASSES:
        remedy = "number the classes from 0"
        raise DataError(f"label {count - 1} cannot be a class index", where=name, remedy=remedy)
    return Dataset(
        images=images,
        labels=labels,
        ids=tuple(f"{name}/{position}" for position in range(len(images))),
        class_names=build_class_names(max(count, 1)),
        name=name,
    )


def _check_zeros_and_ones(images: Tensor, name: str) -> None:
    """Refuse 8-bit images that hold only 0 and 1: divided by 255 they would be black."""
    if images.numel() and int(images.max()) == 1:
        what = "the uint8 images hold only 0 and 1: divided by 255 they would be black"
        raise DataError(
            what, where=name, remedy="give images.float() if 1 is white, images.float() / 255 if not"
        )


def check_pixel_values(images: Tensor, name: str) -> int:
    """Diagnostic D1: refuse images that are not (N, C, H, W), float32, in [0, 1].

    Returns:
        Number of images with values at most ``MAX_OVERSHOOT`` outside [0, 1], for the caller to clamp.

    Raises:
        DataError: With the rows concerned, the likely cause, and what to do.
    """
    return check_pixel_blocks(lambda: (images,), name)


def check_pixel_blocks(read_blocks: Callable[[], Iterable[Tensor]], name: str) -> int:
    """Check images in blocks as ``check_pixel_values`` does all together.

    Args:
        read_blocks: Returns the images, (M, C, H, W) at a time; called again if some value is outside [0, 1].
        name: Name of the images in messages.
    """
    ranges = []
    for images in read_blocks():
        _check_layout(images, name)
        low, high = (value.item() for value in torch.aminmax(images))
        ranges.append((low, high))
    if all(low >= 0 and high <= 1 for low, high in ranges):  # never true of NaN
        return 0
    if all(low >= -MAX_OVERSHOOT and high - 1 <= MAX_OVERSHOOT for low, high in ranges):
        return sum(int(_find_rows((images < 0) | (images > 1)).sum()) for images in read_blocks())
    wrong = torch.cat(
        [_find_rows(~((block >= -MAX_OVERSHOOT) & (block - 1 <= MAX_OVERSHOOT))) for block in read_blocks()]
    )
    where = f"{name}, {format_rows(wrong)}"
    if not all(math.isfinite(low) and math.isfinite(high) for low, high in ranges):
        raise DataError(
            "image values are NaN or infinite", where=where, remedy="repair or remove these images"
        )
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    description, remedy = _explain_range(low, high)
    what = f"image values must be in [0, 1], got {low:.7g} to {high:.7g}: they look {description}"
    raise DataError(what, where=where, remedy=remedy)


def _find_rows(marks: Tensor) -> Tensor:
    """Return the images, (M,), with a mark in some pixel."""
    return marks.flatten(1).any(dim=1)


def _check_layout(images: Tensor, name: str) -> None:
    shape = tuple(images.shape)
    if len(shape) != 4:
        raise DataError(f"images must be (N, C, H, W), got {shape}", where=name)
    if shape[0] == 0:
        raise DataError("there are no images", where=name, remedy="check the path, the split and the limit")
    if shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4):
        raise DataError(
            f"images look like (N, H, W, C): {shape}", where=name, remedy="use images.permute(0, 3, 1, 2)"
        )
    if 0 in shape:
        raise DataError(f"images have no pixels: {shape}", where=name)
    if images.dtype != torch.float32:
        remedy = "give uint8 from 0 to 255, or divide by the value of white"
        raise DataError(f"images must be float32 in [0, 1], got {images.dtype}", where=name, remedy=remedy)


def _explain_range(low: float, high: float) -> tuple[str, str]:
    """Return a description of values outside [0, 1], and advice."""
    margin = MAX_INTERPOLATION_OVERSHOOT
    if low >= -margin and high <= 1 + margin:
        return "like [0, 1] after resizing or arithmetic", "clamp the images to [0, 1] where they are made"
    if low < 0 and low >= -1 - margin and high <= 1 + margin:
        return (
            "normalized already, to [-1, 1]",
            "give (images + 1) / 2, and tell the classifier with normalize",
        )
    if low < 0:
        remedy = "give the images before normalization, and tell the classifier with normalize"
        return "normalized already", remedy
    if high <= 255 * (1 + margin):
        return "like 0..255", "divide the images by 255"
    if high <= 65535 * (1 + margin):
        return "like 0..65535, or a part of it", "divide the images by the value of white"
    return "like no image's", "divide the images by the value of white"


def build_class_names(count: int) -> tuple[str, ...]:
    """Return the numbers as class names: ``("0", "1", ...)``."""
    return tuple(str(index) for index in range(count))


def format_rows(wrong: Tensor, shown: int = 5) -> str:
    """Format the first positions where ``wrong``, (N,), is True: ``rows 3, 8, ... (12 in all)``."""
    rows = wrong.nonzero().flatten().tolist()
    if len(rows) == 1:
        return f"row {rows[0]}"
    first_rows = ", ".join(str(row) for row in rows[:shown])
    return f"rows {first_rows}" + (f", ... ({len(rows)} in all)" if len(rows) > shown else "")


def _check_labels(labels: Tensor, num_classes: int, name: str) -> None:
    if labels.dim() != 1 or labels.dtype != torch.int64:
        got = f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise DataError(f"labels must be class indices, int64 of shape (N,), got {got}", where=name)
    wrong = (labels < 0) | (labels >= num_classes)
    if wrong.any():
        first = labels[wrong][0].item()
        what = f"label {first} is not one of the {num_classes} classes 0 to {num_classes - 1}"
        raise DataError(what, where=f"{name}, {format_rows(wrong)}", remedy="number the classes from 0")


def _check_masks(masks: Tensor, images: Tensor, name: str) -> None:
    expected = (len(images), 1, *images.shape[2:])
    if masks.dtype != torch.bool or tuple(masks.shape) != expected:
        got = f"{masks.dtype} of shape {tuple(masks.shape)}"
        raise DataError(f"masks must be torch.bool of shape {expected}, got {got}", where=name)
