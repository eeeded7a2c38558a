"""All splits of a data source, as listings of which no image is decoded yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robustbench_local.data.collect import Listing
from robustbench_local.data.data_sources import list_source
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.exclusion import UNSPLIT
from robustbench_local.data.groups import GroupOptions, assign_groups
from robustbench_local.data.image_selection import exclude_images, select_positions
from robustbench_local.data.npz import NpzKeys
from robustbench_local.data.subsample import choose_images
from robustbench_local.errors import ConfigError, DataError, RobustbenchError

_USUAL_SPLITS = ("train", "val", "test")
_MISSING_SPLIT_STARTS = ("there is no split", "has no images: no array")


def list_splits(
    source: str,
    *,
    splits: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
    exclude: str | None = None,
    groups: GroupOptions | None = None,
    base_folder: Path | None = None,
    alpha: str | None = None,
    keys: NpzKeys | None = None,
    scale: float | str | None = None,
    root: str | None = None,
    download: bool = True,
    allow_code: bool = False,
) -> dict[str, Listing | Dataset]:
    """List every split of a source.

    Args:
        source: As for `load_dataset`.
        splits: The splits; by default those of ``train``, ``val`` and ``test`` that it has.
        limit: Largest number of images of a split, as even over the classes as possible.
        seed: Seed of the choice, and of generated images.
        exclude: Table of images to leave out.
        groups: Which images show one object.
        base_folder: Folder that relative paths start from.
        alpha: Background of transparent images.
        keys: Arrays of an npz file.
        scale: Value of white in an npz file.
        root: Folder of torchvision's files.
        download: Allow torchvision to download them.
        allow_code: Allow a Python file that is named as the source to be run.

    Returns:
        Split -> its images; one part named ``all`` for a source without splits.

    Raises:
        ConfigError: If the source, or a split that was named, does not exist.
        DataError: If the source cannot be listed.
    """
    parts: dict[str, Listing | Dataset] = {}
    missing: RobustbenchError | None = None
    for split in dict.fromkeys(splits or _USUAL_SPLITS):
        try:
            part = list_source(
                source,
                split=split,
                seed=seed,
                alpha=alpha,
                keys=keys,
                root=root,
                download=download,
                base_folder=base_folder,
                scale=scale,
                allow_code=allow_code,
            )
        except (ConfigError, DataError) as error:
            if splits or not error.what.startswith(_MISSING_SPLIT_STARTS):
                raise
            missing = error
            continue
        parts[split] = part
    if not parts and missing is not None:
        raise missing
    return {
        split: _choose_images(
            exclude_images(
                assign_groups(part, groups or GroupOptions()), exclude, split=split, base=base_folder
            ),
            limit,
            seed,
        )
        for split, part in _drop_repeated_parts(parts, are_named=bool(splits)).items()
    }


def _drop_repeated_parts(
    parts: dict[str, Listing | Dataset], *, are_named: bool
) -> dict[str, Listing | Dataset]:
    """Keep each part once: a source without splits gives the same images for every split."""
    kept: dict[str, Listing | Dataset] = {}
    identities: set[str] = set()
    for split, part in parts.items():
        identity = part.part if isinstance(part, Listing) else part.compute_digest()
        if identity not in identities:
            identities.add(identity)
            kept[split] = part
    if len(kept) == 1 and len(parts) == len(_USUAL_SPLITS) and not are_named:
        return {UNSPLIT: next(iter(kept.values()))}
    return kept


def _choose_images(part: Listing | Dataset, limit: int | None, seed: int) -> Listing | Dataset:
    labels = [int(label) for label in part.labels]
    positions = choose_images(part.ids, labels, limit=limit, seed=seed)
    return part if len(positions) == len(part.ids) else select_positions(part, positions)
