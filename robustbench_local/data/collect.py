"""Turn a listing of a source's images into a data set of the selected ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.classifier.literals import Interpolation
from robustbench_local.counted_nouns import choose_form, format_count
from robustbench_local.data.dataset import Dataset, as_images
from robustbench_local.data.decode import BadImageError, DecodedImage, is_colour
from robustbench_local.data.exclusion import Exclusion
from robustbench_local.data.pixel_spool import PixelSpool
from robustbench_local.data.resize import format_preparation, prepare_pixels
from robustbench_local.errors import ConfigError, DataError

ProgressCallback = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class ModelContract:
    """The input contract of models for which images of many sizes are prepared.

    Args:
        contract: The contract, with an input size.
        models: The models, as the subject of a sentence; empty if the user gave the contract.
    """

    contract: InputContract
    models: str = ""


ContractLookup = Callable[[tuple[str, ...], tuple[int, int] | None], ModelContract | None]
"""Returns the contract to prepare images by where the user gives no size, for the names of the data's
classes, and (H, W) of the images if they share one. None: there is no such contract, or no need for it."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Options for reading images.

    Args:
        size: Height and width of all images; None keeps them as they are.
        resize: See :data:`~robustbench_local.data.resize.Resize`.
        interpolation: How images are resized; None for bilinear, or as a model's contract says.
        gray_to_rgb: Repeat the channel of gray images to make them RGB.
        alpha: Background color for transparent images.
        max_bad: Most unusable images that are quarantined rather than being an error.
        count_unread: Count images in unsupported formats as unusable. Grids with gates set it, because a set
            that shrinks silently could pass a gate.

    Raises:
        ConfigError: If a value is invalid.
    """

    size: tuple[int, int] | None = None
    resize: int | Literal["stretch"] | None = None
    interpolation: Interpolation | None = None
    gray_to_rgb: bool = False
    alpha: str | None = None
    max_bad: int = 0
    count_unread: bool = False

    def __post_init__(self) -> None:
        if self.max_bad < 0:
            raise ConfigError(f"max_bad must be 0 or more, got {self.max_bad}")
        if self.alpha is not None and not is_colour(self.alpha):
            remedy = "write a name such as white, or a value such as #808080"
            raise ConfigError(f"alpha: {self.alpha!r} is not a color", remedy=remedy)
        if self.resize is None:
            return
        if self.size is None:
            raise ConfigError("resize needs size", remedy="set the size to crop, such as size: 224")
        if isinstance(self.resize, int) and self.resize < max(self.size):
            raise ConfigError(f"resize {self.resize} is smaller than size {max(self.size)}")

    @property
    def preparation(self) -> InputContract | None:
        """How images are brought to ``size``; None without one."""
        if self.size is None:
            return None
        return InputContract(
            input_size=self.size,
            resize=self.size if self.resize == "stretch" else self.resize,
            interpolation=self.interpolation or "bilinear",
        )


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The images that a source offers, before any of them is decoded.

    Args:
        name: Short name of the data set.
        where: Name of the source in messages.
        ids: One stable id per image.
        labels: Class indices, (N,), int64.
        class_names: Name of each class index.
        label_map: Label in the source -> class index.
        read_image: Decodes the image at a position; may raise ``BadImageError``.
        masks: Pixels of the object, (N, H, W), bool.
        surface: Description of the masks for reports; empty without masks.
        notes: Remarks for the reader of the report.
        standard_size: Height and width to which the field resizes images that come in many sizes.
        groups: Name of the object that each image shows.
        unread_images: Images in unsupported formats: id, class index and reason.
        files: The file of each image, where each has one of its own; else empty.
        part: The part of the source that was listed, such as a folder; the same for two splits that are
            the same images.
        exclusion: The table that left images out, and which; None without one.
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
    files: Sequence[Path] = ()
    part: str = ""
    exclusion: Exclusion | None = None


def collect_dataset(
    listing: Listing,
    positions: Sequence[int],
    options: ReadOptions,
    progress: ProgressCallback | None = None,
    find_contract: ContractLookup | None = None,
) -> Dataset:
    """Decode the selected images, bring them to one shape, and record what was done.

    Args:
        listing: The source.
        positions: Positions of the images, in this order.
        options: The user's options.
        progress: Called with (images read, images in total) after each image.
        find_contract: Finds the contract by which images are prepared without ``options.size``.

    Raises:
        DataError: If more than ``options.max_bad`` images are unusable, none remains (F33), sizes differ
            (F48), or gray and color images are mixed (F42).
    """
    unread = [(image_id, reason) for image_id, _, reason in listing.unread_images]
    if options.count_unread:
        _check_quarantine(unread, len(positions), options.max_bad, listing.where)
    decoded = _DecodedImages(options, find_contract, listing)
    _decode_images(listing, positions, decoded, progress)
    decoded.prepare_common_size()
    counted = [*decoded.bad_images, *unread] if options.count_unread else decoded.bad_images
    _check_quarantine(counted, len(decoded.pixels), options.max_bad, listing.where)
    ids = tuple(listing.ids[position] for position in decoded.kept_positions)
    labels = listing.labels[decoded.kept_positions]
    _check_sizes(decoded.pixels, ids, listing.where)
    _check_bytes(decoded.pixels, listing.where)
    duplicate_notes = _note_duplicates(decoded.pixels, ids, labels)
    conversions = (f"{format_count(count, 'image')}: {what}" for what, count in decoded.notes.items())
    channels, gray_notes = _unify_channels(decoded.pixels, ids, options, listing.where)
    notes = (*listing.notes, *decoded.preparation_notes, *conversions, *gray_notes, *duplicate_notes)
    return Dataset(
        images=as_images(decoded.pixels.build_images(channels)),
        labels=torch.from_numpy(labels),
        ids=ids,
        class_names=listing.class_names,
        name=listing.name,
        masks=None
        if listing.masks is None
        else _stack_masks(listing.masks[decoded.kept_positions], decoded.preparation),
        surface=listing.surface,
        label_map=listing.label_map,
        quarantined=(*decoded.bad_images, *unread),
        notes=(*notes, *decoded.pixels.notes),
        preparation=decoded.preparation,
        exclusion=listing.exclusion,
        groups=None
        if listing.groups is None
        else tuple(listing.groups[row] for row in decoded.kept_positions),
    )


class _DecodedImages:
    """The result of decoding: positions and pixels of the valid images, the others with the reason.

    Args:
        options: The user's options.
        find_contract: See `collect_dataset`.
        listing: The source.
    """

    def __init__(self, options: ReadOptions, find_contract: ContractLookup | None, listing: Listing) -> None:
        self.kept_positions: list[int] = []
        self.pixels = PixelSpool(listing.where)
        self.bad_images: list[tuple[str, str]] = []
        self.notes: Counter[str] = Counter()
        self.preparation = options.preparation
        self.preparation_notes: tuple[str, ...] = ()
        self._interpolation, self._class_names = options.interpolation, listing.class_names
        self._find_contract = find_contract if self.preparation is None else None

    @property
    def count_to_know_size(self) -> int:
        """Number of images after which their final size is known, in most cases."""
        return 1 if self._find_contract is None else 2

    def add_image(self, position: int, picture: DecodedImage) -> None:
        """Add an image; at the first one of another size, find out how all of them are prepared."""
        pixels = picture.pixels
        if self._find_contract and self.pixels and pixels.shape[:2] != self.pixels.shapes[0][:2]:
            self._prepare_by_contract(self._find_contract(self._class_names, None))
            self._find_contract = None
        self.notes.update(picture.notes)
        self.kept_positions.append(position)
        self.pixels.append(pixels if self.preparation is None else prepare_pixels(pixels, self.preparation))

    def prepare_common_size(self) -> None:
        """Prepare images that all have one size, if a contract calls for it."""
        if self._find_contract and self.pixels:
            height, width = self.pixels.shapes[0][:2]
            self._prepare_by_contract(self._find_contract(self._class_names, (height, width)))

    def _prepare_by_contract(self, found: ModelContract | None) -> None:
        """Prepare the images so far, and all that follow."""
        if found is None:
            return
        geometry = found.contract.geometry
        self.preparation = replace(geometry, interpolation=self._interpolation or geometry.interpolation)
        self.pixels = self.pixels.change_all(partial(prepare_pixels, contract=self.preparation))
        how = format_preparation(self.preparation)
        self.preparation_notes = (f"photographs are prepared as {found.models}: {how}",)


def _decode_images(
    listing: Listing, positions: Sequence[int], decoded: _DecodedImages, progress: ProgressCallback | None
) -> None:
    for done, position in enumerate(positions, start=1):
        try:
            picture = listing.read_image(position)
        except BadImageError as error:
            decoded.bad_images.append((listing.ids[position], str(error)))
        else:
            decoded.add_image(position, picture)
            if len(decoded.pixels) == min(decoded.count_to_know_size, len(positions)):
                decoded.pixels.check_room(len(positions))
        if progress is not None:
            progress(done, len(positions))


def _check_quarantine(bad: Sequence[tuple[str, str]], good: int, max_bad: int, where: str) -> None:
    if len(bad) <= max_bad and good:
        return
    if not bad:
        raise DataError("there are no images", where=where, remedy="check the path, the split and the limit")
    first = ", ".join(f"{file} ({reason})" for file, reason in bad[:3]) + (", ..." if len(bad) > 3 else "")
    remedy = "repair or remove them" + (f", or set max_bad: {len(bad)} to go on without them" if good else "")
    raise DataError(f"{format_count(len(bad), 'image')} cannot be used: {first}", where=where, remedy=remedy)


def _check_sizes(pixels: PixelSpool, ids: Sequence[str], where: str) -> None:
    height, width = pixels.shapes[0][:2]
    for shape, image_id in zip(pixels.shapes, ids, strict=True):
        if shape[:2] != (height, width):
            sizes = f"{ids[0]} is {width}x{height} and {image_id} is {shape[1]}x{shape[0]}"
            raise DataError(
                f"sizes differ: {sizes}",
                where=where,
                remedy="set a common size, such as size: 224, or the input_size of a model",
            )


def _check_bytes(pixels: PixelSpool, where: str) -> None:
    """Refuse 8-bit images that hold only 0 and 1, as saved masks do: divided by 255, all would be black."""
    if pixels.has_8_bit_white or not pixels.has_light:
        return
    what = "all images hold only the values 0 and 1: with white at 255 they would be black"
    raise DataError(what, where=where, remedy="save them with 255 for white")


def _unify_channels(
    pixels: PixelSpool, ids: Sequence[str], options: ReadOptions, where: str
) -> tuple[int, tuple[str, ...]]:
    """Return the number of channels of all images, and a note about gray ones that are repeated."""
    gray = [row for row, shape in enumerate(pixels.shapes) if shape[2] == 1]
    if not options.gray_to_rgb and len(gray) in (0, len(pixels)):
        return pixels.shapes[0][2], ()
    if not options.gray_to_rgb:
        what = (
            f"{len(gray)} of {format_count(len(pixels), 'image')} "
            f"{choose_form(len(gray), 'is', 'are')} gray among color images, the first: {ids[gray[0]]}"
        )
        remedy = "set gray_to_rgb: true to repeat their channel, or remove them"
        raise DataError(what, where=where, remedy=remedy)
    return 3, (f"{format_count(len(gray), 'image')}: gray, repeated to RGB",) if gray else ()


def _note_duplicates(pixels: PixelSpool, ids: Sequence[str], labels: NDArray[np.int64]) -> tuple[str, ...]:
    """Note images that occur twice (F53); if their labels differ, one of the labels is wrong."""
    first: dict[bytes, int] = {}
    copies: list[tuple[int, int]] = []
    for row, content in enumerate(pixels.digests):
        if content in first:
            copies.append((first[content], row))
        else:
            first[content] = row
    if not copies:
        return ()
    contradicting = sum(1 for original, copy in copies if labels[original] != labels[copy])
    original, copy = copies[0]
    tail = f", {contradicting} of them with another label" if contradicting else ""
    example = f"the first: {ids[copy]} of {ids[original]}"
    return (f"{format_count(len(copies), 'image')}: exact copies of others{tail}, {example}",)


def _stack_masks(masks: NDArray[np.bool_], preparation: InputContract | None) -> Tensor:
    if preparation is not None:
        shades = masks.astype(np.float32)[..., None]
        masks = np.stack([prepare_pixels(shade, preparation)[..., 0] >= 0.5 for shade in shades])
    return torch.from_numpy(np.ascontiguousarray(masks[:, None]))
