"""A recipe fitted to one network and its images, and what a reader has to know of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any

from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.counted_nouns import choose_form, format_count
from robustbench_local.data.dataset import Dataset
from robustbench_local.defenses.recipes.base import Recipe

_CARD_SIDE_PIXELS = 224
"""Side of the images for which the shift of a fine-tuning is given."""
_FRESH_SETTINGS: dict[str, Any] = {"fine_tune": False, "head_epochs": 0, "backbone_rate": 1.0}
"""Random weights below the last layer have to learn as much as it does."""


def fit_recipe(
    recipe: Recipe,
    training: Dataset,
    contract: InputContract,
    *,
    is_fresh: bool,
    kept: AbstractSet[str] = frozenset(),
) -> Recipe:
    """Fit a recipe to a network and its images, where the user has not set a value.

    Random weights are trained as a whole from the start; the shift of a fine-tuning goes with the side of the
    images; a batch is not larger than the data.

    Args:
        recipe: The hyper-parameters.
        training: The training images.
        contract: How the network takes them.
        is_fresh: Whether it starts from random weights.
        kept: Names of hyper-parameters that the user set.
    """
    changes: dict[str, Any] = {}
    if is_fresh:
        changes |= _FRESH_SETTINGS
    if recipe.fine_tune and recipe.shift:
        side = min(contract.input_size or training.image_shape[1:])
        side = min(side, *training.image_shape[1:])  # images are shifted before the network enlarges them
        changes["shift"] = max(1, min(recipe.shift, round(recipe.shift * side / _CARD_SIDE_PIXELS)))
    changes["batch_size"] = max(2, min(recipe.batch_size, len(training)))
    return replace(recipe, **{name: value for name, value in changes.items() if name not in kept})


def describe_classes(data: Dataset) -> str:
    """Return the number of classes and of their images: ``4 classes of 60 to 80 images``."""
    counts = Counter(data.labels.tolist())
    fewest, most = min(counts.values()), max(counts.values())
    each = format_count(most, "image")
    return f"{format_count(len(counts), 'class')} of {each if fewest == most else f'{fewest:,} to {each}'}"


def describe_sampling(recipe: Recipe, data: Dataset) -> str:
    """Return what is done about classes of different sizes; empty if there are none."""
    counts = Counter(data.labels.tolist())
    if len(set(counts.values())) == 1:
        return ""
    if recipe.class_sampling == "balanced":
        return "classes differ in size: each comes equally often in an epoch"
    return "classes differ in size: images come equally often (--set class_sampling=balanced changes that)"


def describe_augmentation(recipe: Recipe, class_names: tuple[str, ...]) -> str:
    """Return the augmentation of a recipe in one line."""
    parts = [f"shift up to {format_count(recipe.shift, 'pixel')}"] if recipe.shift else []
    parts += [
        f"{name} within {getattr(recipe, name):.0%}"
        for name in ("brightness", "contrast", "saturation", "zoom")
        if getattr(recipe, name)
    ]
    parts += [f"rotation up to {recipe.rotation:g} degrees"] if recipe.rotation else []
    mirrored = sorted(recipe.build_augmentation(class_names).flip)
    if len(mirrored) == len(class_names):
        parts.append("mirrored half the time")
    elif mirrored:
        names = ", ".join(class_names[index] for index in mirrored)
        parts.append(f"{names} {choose_form(len(mirrored), 'is', 'are')} mirrored half the time")
    else:
        parts.append("never mirrored")
    return ", ".join(parts)
