"""What loading a program found, in the form that every model source returns."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from robustbench_local.counted_nouns import choose_form, format_count
from robustbench_local.errors import ModelError
from robustbench_local.models.loaded_model import LoadedModel, ModelRequest
from robustbench_local.models.model_trial import ModelTrial
from robustbench_local.models.program_files import ProgramFile
from robustbench_local.models.program_module import LARGEST_BATCH, ProgramModule
from robustbench_local.models.program_operators import count_training_operators

_MAX_CHANNELS = 4


def describe_program(
    model: ProgramModule, program: ProgramFile, trial: ModelTrial | None, request: ModelRequest
) -> LoadedModel:
    """Return a loaded program with the metadata that were found.

    Args:
        model: The program as a module.
        program: Its file.
        trial: What it answered; None if no trial succeeded.
        request: The user's options, which come first.

    Raises:
        ModelError: If its number of classes is unknown.
    """
    where = program.path.name
    found = None if trial is None else trial.num_outputs
    classes = request.num_classes or found or request.default_classes
    if classes is None:
        raise ModelError("its number of classes is unknown", where=where, remedy="set num_classes")
    loaded = LoadedModel(model=model, num_classes=classes, is_unnormalized=True)
    loaded.notes.append(f"runs the program in {where} (code was allowed)")
    loaded.provenance |= program.provenance
    loaded.notes += _describe_batch_limits(model)
    if trial is not None and request.access is None:
        loaded.access = trial.access
        loaded.notes += trial.notes
    return loaded


def _describe_batch_limits(model: ProgramModule) -> list[str]:
    """Describe the sizes of batches that a program takes, if they are limited."""
    takes = model.takes
    filled = "batches are padded with copies"
    if takes.min_batch == takes.max_batch:
        return [f"takes exactly {format_count(takes.min_batch, 'image')} at a time: {filled}"]
    if takes.max_batch < LARGEST_BATCH:
        return [f"takes {takes.min_batch} to {takes.max_batch} images at a time: {filled}"]
    return [f"takes at least {takes.min_batch} images at a time: {filled}"] if takes.min_batch > 1 else []


def check_training_mode(module: nn.Module, where: str) -> list[str]:
    """Check for operators that a graph fixes in training mode, which nothing can switch off.

    Args:
        module: The program.
        where: The name of its file.

    Returns:
        A note if there are dropouts, which may be meant: the model is a random one.

    Raises:
        ModelError: If there are batch norms: its answers depend on the other images of a batch.
    """
    norms, dropouts = count_training_operators(module)
    if norms:
        raise ModelError(
            f"was exported in training mode, which fixes {format_count(norms, 'batch norm')} in it",
            where=where,
            remedy="call eval() on the module, and export it again",
        )
    if not dropouts:
        return []
    count = format_count(dropouts, "dropout")
    note = f"{count} in it {choose_form(dropouts, 'is', 'are')} fixed in training mode"
    return [f"{note}: if that is not meant, call eval() on the module, and export it again"]


def is_channels_last(shape: Sequence[int | None]) -> bool:
    """Check whether an input of this shape, of four sizes, is (N, H, W, C); None is a size that may vary."""
    _, first, _, last = shape
    return last is not None and last <= _MAX_CHANNELS and (first is None or first > _MAX_CHANNELS)
