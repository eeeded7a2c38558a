"""A plain folder of photographs, divided once for a training and for all that follows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from robustbench_local.config.class_lookup import resolve_classes
from robustbench_local.data.exclusion import UNSPLIT, Exclusion, find_remaining, read_exclusion
from robustbench_local.data.folder_layout import NO_SPLIT
from robustbench_local.data.groups import GroupOptions
from robustbench_local.data.split_folder import divide_photographs, list_photographs, write_parts
from robustbench_local.data.subsample import choose_images
from robustbench_local.evaluation.grid.data_entries import DataEntry
from robustbench_local.evaluation.training.training_data import TrainingDataSpec

PHOTOGRAPHS_FOLDER = "photographs"
"""Folder of the divided photographs, in that of the comparison."""


def divide_source(
    spec: TrainingDataSpec, *, out: Path, seed: int, base: Path, report: Callable[[str], None]
) -> TrainingDataSpec:
    """Divide a folder without splits into ``out/photographs/train``, ``val`` and ``test``.

    What is tested, attacked or served later can name the same held-out photographs as ``folder:`` then. Other
    sources, and folders with splits or with parts that the user names, stay as they are.

    Args:
        spec: The images.
        out: Folder of the comparison.
        seed: Seed of the division.
        base: Folder that relative paths start from.
        report: Prints a line.

    Raises:
        ConfigError: If the folder has another division already.
        DataError: If the photographs cannot be listed or divided.
    """
    entry = spec.entry
    kind, _, name = entry.source.partition(":")
    if kind != "folder" or not name or spec.validation_source or spec.test_source:
        return spec
    folder = base / Path(name).expanduser()
    listing = list_photographs(folder, split=entry.split, where=entry.source)
    if listing is None:
        return spec
    exclusion = (
        None
        if entry.exclude is None
        else read_exclusion(entry.exclude, listing.ids, split=UNSPLIT, base=base)
    )
    positions = _choose_positions(
        entry, listing.ids, listing.labels.tolist(), listing.class_names, seed, exclusion
    )
    groups = GroupOptions(groups=entry.groups, pattern=entry.group_pattern, base_folder=base)
    shares = {"val": spec.validation_share, "test": spec.test_share}
    parts = divide_photographs(listing, positions, shares=shares, groups=groups, seed=seed)
    target = out / PHOTOGRAPHS_FOLDER
    write_parts(listing, parts, target)
    counts = ", ".join(f"{len(chosen):,} {part}" for part, chosen in parts.items())
    report(f"divided {entry.source} into {target}: {counts}")
    if exclusion is not None:
        report(exclusion.format_note())
    changes = {
        "source": f"folder:{target}",
        "split": "train",
        "limit": None,
        "classes": None,
        "exclude": None,
    }
    if entry.split != NO_SPLIT:
        return replace(spec, entry=entry.model_copy(update=changes), is_divided=True, exclusion=exclusion)
    # class folders may be called like splits: each part is named by itself
    changes |= {"source": f"folder:{target / 'train'}", "split": NO_SPLIT}
    return replace(
        spec,
        entry=entry.model_copy(update=changes),
        validation_source=f"folder:{target / 'val'}",
        test_source=f"folder:{target / 'test'}",
        is_divided=True,
        exclusion=exclusion,
    )


def _choose_positions(
    entry: DataEntry,
    ids: Sequence[str],
    labels: list[int],
    class_names: tuple[str, ...],
    seed: int,
    exclusion: Exclusion | None,
) -> list[int]:
    """Return the positions of the images that the entry selects, without those that are left out."""
    wanted = None if entry.classes is None else set(resolve_classes(entry.classes, class_names))
    remaining = find_remaining(ids, exclusion)
    positions = [place for place in remaining if wanted is None or labels[place] in wanted]
    chosen = choose_images(
        [ids[place] for place in positions],
        [labels[place] for place in positions],
        limit=entry.limit,
        seed=seed if entry.seed is None else entry.seed,
        choose=entry.choose,
    )
    return [positions[index] for index in chosen]
