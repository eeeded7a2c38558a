"""What makes a training this one: a checkpoint of any other is refused, and so are cached weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_local.classifier.model_identity import describe
from robustbench_local.data.dataset import Dataset
from robustbench_local.defenses.recipe import Recipe

LOOP_VERSION = 1
"""Raised whenever the same recipe, data and seed give other weights."""


def identify(
    module: nn.Module,
    recipe: Recipe,
    training: Dataset,
    validation: Dataset,
    *,
    seed: int,
    teacher: Callable[[str], nn.Module],
) -> dict[str, str]:
    """What a checkpoint of this training has to agree with, each by the word that a refusal uses.

    The version comes first: a checkpoint from before it was kept is refused for its age, not for its network.
    """
    return {
        "version of the training loop": str(LOOP_VERSION),
        "recipe": repr(recipe),
        "training": training.digest(),
        "validation": validation.digest(),
        "seed": str(seed),
        "network": structure(module),
        **taught_by(recipe, teacher),
    }


def taught_by(recipe: Recipe, load: Callable[[str], nn.Module]) -> dict[str, str]:
    """The SHA-256 of the teacher that a recipe names; nothing where it names none.

    Args:
        recipe: Any recipe; its name for a teacher does not tell which weights lie there today.
        load: Loads the teacher.
    """
    name = getattr(recipe, "teacher", "")
    return {"teacher": network_digest(load(name))} if name else {}


def structure(module: nn.Module) -> str:
    """SHA-256 of what a module computes apart from its weights: layers, shapes, constants such as means."""
    kept = module.state_dict()
    kinds = [f"{type(one).__module__}.{type(one).__qualname__}" for one in module.modules()]
    shapes = [(name, tuple(value.shape)) for name, value in kept.items()]
    constants = {name: value for name, value in module.named_buffers() if name not in kept}
    return _hashed(repr([describe(module), kinds, shapes]), constants)


def network_digest(module: nn.Module) -> str:
    """SHA-256 of a network: what it computes, and its weights."""
    return _hashed(structure(module), module.state_dict())


def _hashed(text: str, tensors: Mapping[str, Any]) -> str:
    hasher = hashlib.sha256(text.encode())
    for name, value in tensors.items():
        hasher.update(f"{name} {tuple(value.shape)} {value.dtype}".encode() + _bytes(value))
    return hasher.hexdigest()


def _bytes(value: Tensor) -> bytes:
    flat = value.detach().cpu().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().tobytes()
