"""Checks of a classifier's arguments and inputs: impossible ones raise an error of one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from robustbench_local.classifier.literals import BINARY_OUTPUT_REMEDY, Access
from robustbench_local.counted_nouns import choose_form, format_count
from robustbench_local.errors import ConfigError, ModelError


def check_classes(
    num_classes: int, class_names: Sequence[str] | None, name: str
) -> tuple[int, tuple[str, ...] | None]:
    """Check the number of classes; return it with the class names as text, or None.

    Raises:
        ModelError: If there are fewer than 2 classes, or another number of names.
    """
    if num_classes < 2:
        remedy = BINARY_OUTPUT_REMEDY if num_classes == 1 else None
        raise ModelError(
            f"a classifier needs at least 2 classes, got {num_classes}", where=name, remedy=remedy
        )
    if class_names is not None and len(class_names) != num_classes:
        raise ModelError(
            f"{format_count(len(class_names), 'class name')} for {num_classes} classes", where=name
        )
    return num_classes, None if class_names is None else tuple(str(entry) for entry in class_names)


def resolve_access(access: Access | None, is_module: bool, name: str) -> Access:
    """Return the attacker's access; by default gradients for a module and scores for anything else.

    Raises:
        ConfigError: If there is no such access.
    """
    if access is None:
        return "gradients" if is_module else "scores"
    if access not in get_args(Access):
        raise ConfigError(
            f"unknown access {access!r}", where=name, remedy=f"use {', '.join(get_args(Access))}"
        )
    return access


def check_images(images: Tensor, channels: int | None, name: str) -> None:
    """Check the type and shape of images, not their values.

    Args:
        images: Input of a classifier.
        channels: Number of channels it takes, where known.
        name: Name of the classifier in messages.

    Raises:
        ModelError: If they are not floats (N, C, H, W) with that number of channels.
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise ModelError(
            f"images must be floats (N, C, H, W) in [0, 1], got {images.dtype} {tuple(images.shape)}",
            where=name,
        )
    if channels is not None and images.shape[1] != channels:
        raise ModelError(
            f"takes images with {format_count(channels, 'channel')}, these have {images.shape[1]}",
            where=name,
            remedy="convert the images, for gray ones with gray_to_rgb: true",
        )


def check_finite_weights(module: nn.Module | None, name: str) -> None:
    """Check parameters and buffers for NaN and infinity; a callable (None) has none.

    Raises:
        ModelError: Naming the first tensor that has one.
    """
    if module is None:
        return
    for path, tensor in [*module.named_parameters(), *module.named_buffers()]:
        bad = int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() else 0
        if bad:
            raise ModelError(
                f"tensor {path} has {bad} of {format_count(tensor.numel(), 'value')} that "
                f"{choose_form(bad, 'is', 'are')} NaN or infinite",
                where=name,
                remedy="export the weights again",
            )
