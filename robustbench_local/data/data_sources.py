"""Data sources: ``signs``, ``torchvision:NAME``, ``folder:DIR``, ``npz:FILE``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.classifier.literals import Interpolation
from robustbench_local.config.class_lookup import resolve_classes
from robustbench_local.data.collect import (
    ContractLookup,
    Listing,
    ModelContract,
    ProgressCallback,
    ReadOptions,
    collect_dataset,
)
from robustbench_local.data.data_source_kinds import DATASET_SOURCES
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.folder import list_folder
from robustbench_local.data.groups import GroupOptions, group_images
from robustbench_local.data.gtsrb import CLASS_NAMES
from robustbench_local.data.image_selection import exclude_images
from robustbench_local.data.npz import NpzKeys, list_npz
from robustbench_local.data.outside_data import is_outside_data, load_outside_data
from robustbench_local.data.rendered_signs.sign_shapes import DRAWN_CLASSES
from robustbench_local.data.subsample import SubsampleMethod, choose_images
from robustbench_local.data.torchvision_sets import list_torchvision
from robustbench_local.errors import ConfigError, DataError, did_you_mean
from robustbench_local.extensions.code_permission import permit_code
from robustbench_local.number_parser import parse_number

MAX_SIDE_PIXELS = 4096
_SIGNS_PER_CLASS = 40  # rendered signs of each class without a limit


def load_dataset(
    source: str,
    *,
    split: str = "test",
    limit: int | None = None,
    choose: SubsampleMethod = "stratified",
    seed: int = 0,
    classes: Sequence[int | str] | None = None,
    size: int | Sequence[int] | None = None,
    resize: int | Literal["stretch"] | None = None,
    interpolation: Interpolation | None = None,
    contract: InputContract | ContractLookup | None = None,
    gray_to_rgb: bool = False,
    alpha: str | None = None,
    max_bad: int = 0,
    count_unread: bool = False,
    download: bool = True,
    root: Path | str | None = None,
    base_folder: Path | str | None = None,
    images_key: str | None = None,
    labels_key: str | None = None,
    masks_key: str | None = None,
    boxes_key: str | None = None,
    groups_key: str | None = None,
    groups: str | None = None,
    group_pattern: str | None = None,
    exclude: str | None = None,
    scale: float | str | None = None,
    allow_code: bool = False,
    progress: ProgressCallback | None = None,
) -> Dataset:
    """Load labelled images from a source and validate them; only the selected images are decoded.

    Args:
        source: One of ``DATASET_SOURCES``, such as ``signs``, ``torchvision:CIFAR10``, ``folder:photos``.
        split: ``train``, ``val`` or ``test``, if the source has splits; for a folder also the name of a split
            with another spelling, or ``none`` if its folders are classes.
        limit: Use only this many images.
        choose: ``"stratified"``: as even over the classes as the data allow, the same for the same seed;
            ``"random"``: any images, so that classes keep their shares; ``"first"``: the first images in the
            order of the source.
        seed: Seed of the choice; for ``signs`` also of the rendering.
        classes: Use only images of these classes, given by name or index.
        size: Side, or height and width, in pixels: images are resized to cover it, then center-cropped.
        resize: Length of the shorter side before the crop, or ``"stretch"`` to ignore the aspect ratio.
        interpolation: How images are resized: ``"nearest"``, ``"bilinear"`` (default), ``"bicubic"`` or
            ``"lanczos"``, bit by bit as PIL does it.
        contract: A model's ``classifier.contract``: without ``size``, images are prepared as it says. Or a
            function that returns it when the classes and the images' sizes are known.
        gray_to_rgb: Repeat the channel of gray images.
        alpha: Background color for transparent images.
        max_bad: Skip up to this many unusable images; they are listed in ``quarantined``.
        count_unread: Count images in unsupported formats (TIFF, GIF, WebP, ...) among them; a grid with gates
            sets it. They are listed in either case.
        download: Allow torchvision to download missing files.
        root: Folder of torchvision's files; default ``RBL_DATA``, else ``~/.cache/robustbench_local``.
        base_folder: Folder in which relative paths are looked up before the current one.
        images_key: Array of images in an npz file, instead of the usual names.
        labels_key: Array of labels in an npz file.
        masks_key: Array of masks in an npz file.
        boxes_key: Array of boxes in an npz file, instead of masks.
        groups_key: Array in an npz file that names the object each image shows.
        groups: Which images show the same object: ``folder`` for folders inside the class folders, a CSV file
            with the columns ``image`` and ``group``, or ``none`` for independent images. Intervals are over
            groups. By default the source says it.
        group_pattern: Regular expression whose match in an image's id names the group within its class.
        exclude: CSV file of images to leave out, such as the findings of ``rbl check-data``: a column
            ``image``, and optionally ``split`` and ``exclude`` (yes or no).
        scale: The value of white in an npz file, if the array's type does not imply it.
        allow_code: Allow a Python file that is named as the source to be run.
        progress: Called with (images read, images in total).

    Raises:
        ConfigError: If the source, a class or an option is unknown or invalid.
        DataError: If the images or labels cannot be used (F33 to F54).
        RefusedError: If a file could run code or is a decompression bomb.
    """
    _check_choice(limit, choose, seed)
    group_options = GroupOptions(
        groups=groups, pattern=group_pattern, base_folder=None if base_folder is None else Path(base_folder)
    )
    options = ReadOptions(
        size=_parse_size(size),
        resize=resize,
        interpolation=_parse_interpolation(interpolation),
        gray_to_rgb=gray_to_rgb,
        alpha=alpha,
        max_bad=max_bad,
        count_unread=count_unread,
    )
    leave_out: dict[str, Any] = {"table": exclude, "split": split, "base": group_options.base_folder}
    if source == "signs":
        _parse_scale(scale, source)
        drawn = exclude_images(_load_rendered_signs(split, limit, seed, classes, options), **leave_out)
        return group_images(drawn, group_options, is_drawn=True)
    if is_outside_data(source):
        with permit_code(allow_code, group_options.base_folder):
            data = load_outside_data(source, split=split, seed=seed, classes=classes, options=options)
        data = exclude_images(data, **leave_out)
        chosen = choose_images(data.ids, data.labels.tolist(), limit=limit, seed=seed, choose=choose)
        return group_images(data.select_images(chosen), group_options)
    keys = NpzKeys(images=images_key, labels=labels_key, masks=masks_key, boxes=boxes_key, groups=groups_key)
    listing = _build_listing(
        source,
        split=split,
        options=options,
        keys=keys,
        root=_find_root(root),
        download=download,
        base=base_folder,
        scale=_parse_scale(scale, source),
    )
    if listing.standard_size is not None and options.size is None:
        height, width = listing.standard_size
        options = replace(options, size=listing.standard_size, resize="stretch")
        note = f"images of many sizes, stretched to {height}x{width} as is usual for this data set"
        listing = replace(listing, notes=(*listing.notes, note))
    listing = exclude_images(listing, **leave_out)
    positions = _select_class_positions(listing.labels.tolist(), listing.class_names, classes, source)
    if classes is not None:
        wanted = set(resolve_classes(classes, listing.class_names))
        listing = replace(
            listing, unread_images=tuple(image for image in listing.unread_images if image[1] in wanted)
        )
    chosen = _choose_positions(positions, listing, limit, seed, choose)
    return group_images(
        collect_dataset(listing, chosen, options, progress, _make_lookup(contract)), group_options
    )


def list_source(
    source: str,
    *,
    split: str = "test",
    seed: int = 0,
    alpha: str | None = None,
    keys: NpzKeys | None = None,
    root: Path | str | None = None,
    download: bool = True,
    base_folder: Path | None = None,
    scale: float | str | None = None,
    allow_code: bool = False,
) -> Listing | Dataset:
    """List a source's images without decoding any; generated images come as a data set.

    A class of which no image can be read is listed with the others; arguments and errors as in
    `load_dataset`.
    """
    options = ReadOptions(alpha=alpha)
    white = _parse_scale(scale, source)
    if source == "signs":
        return _load_rendered_signs(split, None, seed, None, options)
    if is_outside_data(source):
        with permit_code(allow_code, base_folder):
            return load_outside_data(source, split=split, seed=seed, classes=None, options=options)
    return _build_listing(
        source,
        split=split,
        options=options,
        keys=keys or NpzKeys(),
        root=_find_root(root),
        download=download,
        base=base_folder,
        scale=white,
        allow_unread_classes=True,
    )


def _build_listing(
    source: str,
    *,
    split: str,
    options: ReadOptions,
    keys: NpzKeys,
    root: Path,
    download: bool,
    base: Path | str | None,
    scale: float | None,
    allow_unread_classes: bool = False,
) -> Listing:
    kind, _, name = source.partition(":")
    if name and kind == "torchvision":
        return list_torchvision(name, root=root, split=split, download=download)
    if name and kind == "folder":
        return list_folder(
            _find_path(name, base),
            where=source,
            split=split,
            alpha=options.alpha,
            allow_unread_classes=allow_unread_classes,
        )
    if name and kind == "npz":
        file = _find_path(name, base)
        return list_npz(file, where=source, split=split, keys=keys, alpha=options.alpha, scale=scale)
    if kind in ("torchvision", "folder", "npz"):
        form = next(pattern for pattern in DATASET_SOURCES if pattern.startswith(f"{kind}:"))
        raise ConfigError(f"the source {source!r} names nothing", remedy=f"write it as {form}")
    if Path(source).is_dir():
        raise ConfigError(f"unknown data source {source!r}", remedy=f"write folder:{source}")
    kinds = [pattern.partition(":")[0] for pattern in DATASET_SOURCES]
    raise ConfigError(f"unknown data source {source!r}", remedy=did_you_mean(kind, kinds))


def _load_rendered_signs(
    split: str, limit: int | None, seed: int, classes: Sequence[int | str] | None, options: ReadOptions
) -> Dataset:
    split = "validation" if split in ("val", "valid") else split
    height, width = options.size or (32, 32)
    if height != width or options.resize is not None:
        raise ConfigError(
            "signs are square, drawn at their size", remedy="give size one number, and no resize"
        )
    wanted = DRAWN_CLASSES if classes is None else resolve_classes(classes, CLASS_NAMES)
    rounds = _SIGNS_PER_CLASS if limit is None else -(-limit // max(len(wanted), 1))
    from robustbench_local.data.rendered_signs.sign_dataset import load_signs  # noqa: PLC0415 - scipy

    return load_signs(split=split, per_class=rounds, limit=limit, seed=seed, size=height, classes=wanted)


def _select_class_positions(
    labels: Sequence[int], class_names: Sequence[str], classes: Sequence[int | str] | None, where: str
) -> list[int]:
    """Return the positions of the images of these classes; of all images if none are named."""
    if classes is None:
        return list(range(len(labels)))
    wanted = set(resolve_classes(classes, class_names))
    positions = [position for position, label in enumerate(labels) if label in wanted]
    if not positions:
        raise DataError(f"there are no images of the classes {list(classes)}", where=where)
    return positions


def _choose_positions(
    positions: Sequence[int], listing: Listing, limit: int | None, seed: int, choose: SubsampleMethod
) -> list[int]:
    ids = [listing.ids[position] for position in positions]
    labels = listing.labels[list(positions)].tolist()
    return [positions[index] for index in choose_images(ids, labels, limit=limit, seed=seed, choose=choose)]


def _check_choice(limit: int | None, choose: str, seed: int) -> None:
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be 1 or more, got {limit}")
    if seed < 0:
        raise ConfigError(f"seed must be 0 or more, got {seed}")
    if choose not in get_args(SubsampleMethod):
        raise ConfigError(f"choose must be one of {', '.join(get_args(SubsampleMethod))}, got {choose!r}")


def _parse_size(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and 0 < side <= MAX_SIDE_PIXELS for side in sides):
        remedy = "write one number, or [height, width], in pixels"
        raise ConfigError(f"size must be 1 to {MAX_SIDE_PIXELS}, got {size}", remedy=remedy)
    return sides[0], sides[1]


def _parse_scale(scale: float | str | None, source: str) -> float | None:
    """Validate the value of white; it is only for npz files, because image files state their own."""
    if scale is None:
        return None
    if not source.startswith("npz:"):
        raise ConfigError(f"scale is for npz files, not for {source!r}", remedy="leave scale out")
    try:
        white = parse_number(scale)
    except ValueError:
        white = 0
    if white <= 0:
        raise ConfigError(f"scale must be a number above 0, got {scale!r}", remedy="write the value of white")
    return white


def _parse_interpolation(interpolation: str | None) -> Interpolation | None:
    known = get_args(Interpolation)
    if interpolation is not None and interpolation not in known:
        raise ConfigError(
            f"unknown interpolation {interpolation!r}", remedy=did_you_mean(str(interpolation), known)
        )
    return interpolation  # type: ignore[return-value]


def _make_lookup(contract: InputContract | ContractLookup | None) -> ContractLookup | None:
    """Return a lookup that knows the user's contract; one without an input size says nothing about sizes."""
    if not isinstance(contract, InputContract):
        return contract
    if contract.input_size is None:
        return None
    known = ModelContract(contract=contract, models="the contract says")

    def find(_class_names: tuple[str, ...], _size: tuple[int, int] | None) -> ModelContract:
        return known

    return find


def _find_root(root: Path | str | None) -> Path:
    return Path(
        root or os.environ.get("RBL_DATA") or Path.home() / ".cache" / "robustbench_local"
    ).expanduser()


def _find_path(name: str, base: Path | str | None) -> Path:
    """Return the path from the base folder if it exists, else from the current folder."""
    try:
        if b"\0" in os.fsencode(name):
            raise ValueError("it contains a NUL")  # noqa: TRY301
        path = Path(name).expanduser()
        from_base = Path(base or ".") / path
        return from_base if from_base.exists() else path
    except (OSError, ValueError, RuntimeError) as error:  # too long, not Unicode, or an unknown ~user
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{name[:80]!r} cannot be a path: {reason}", remedy="check the path") from None
