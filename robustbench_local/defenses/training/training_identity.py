"""The identity of a training; checkpoints and cached weights of any other training are refused."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from robustbench_local.classifier.model_identity import describe_model, digest_parts
from robustbench_local.classifier.package_code import digest_code
from robustbench_local.classifier.tensor_identity import describe_tensor
from robustbench_local.data.dataset import Dataset
from robustbench_local.defenses.recipes.base import Recipe
from robustbench_local.extensions.open_registry import describe_outside_code

LOOP_VERSION = 1
"""Increased whenever the same recipe, data and seed give other weights for a reason outside the code."""
_TRAINING_MODULES = (
    "robustbench_local.defenses.training.training_loop",
    "robustbench_local.defenses.recipes.recipe_registry",
)
"""Modules at which the code of a training starts."""


def describe_training(
    module: nn.Module,
    recipe: Recipe,
    training: Dataset,
    validation: Dataset,
    *,
    seed: int,
    teacher: Callable[[str], nn.Module],
) -> dict[str, str]:
    """Return the identity that a checkpoint has to match, keyed by the words of error messages.

    The version comes first: a checkpoint from before it was stored is refused for its age, not for its
    network. Files come before the network built from them, because they are more informative.
    """
    parts = {name: value for name, value in describe_network(module).items() if name != "weights"}
    files = {name: value for name, value in parts.items() if name.startswith(("code file ", "version "))}
    made = {name: value for name, value in parts.items() if name not in files}
    return {
        "version of the training loop": compute_loop_version(),
        "recipe": repr(recipe),
        **{f"{part} of the recipe": value for part, value in describe_outside_code(type(recipe)).items()},
        "training": training.compute_digest(),
        "validation": validation.compute_digest(),
        "seed": str(seed),
        **files,
        "network": digest_parts(made),
        **describe_teacher(recipe, teacher),
    }


def describe_teacher(recipe: Recipe, load: Callable[[str], nn.Module]) -> dict[str, str]:
    """Return the digest of the teacher that a recipe names; nothing if it names none.

    Args:
        recipe: Any recipe; a teacher's name does not identify its current weights.
        load: Loads the teacher.
    """
    name = getattr(recipe, "teacher", "")
    return {"teacher": digest_parts(describe_network(load(name)))} if name else {}


def describe_network(module: nn.Module) -> dict[str, str]:
    """Return the identity of a network: its computation and its weights; see `model_identity`."""
    shapes = [(name, tuple(value.shape)) for name, value in module.state_dict().items()]
    stored_names = module.state_dict().keys()
    constants = [
        f"{name} {describe_tensor(value)}"
        for name, value in module.named_buffers()
        if name not in stored_names
    ]
    return {**describe_model(module), "shapes": repr(shapes), "constants": repr(constants)}


def compute_loop_version() -> str:
    """Return the version of the training code, which maps a recipe, data and a seed to weights."""
    return f"{LOOP_VERSION}+{digest_code(_TRAINING_MODULES)[:12]}"
