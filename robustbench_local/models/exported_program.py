"""Models that torch.export saved (``.pt2``), run by torch, with gradients where the program has them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import ModelError
from robustbench_local.models.exported_archive import load_exported
from robustbench_local.models.loaded_model import LoadedModel, ModelRequest
from robustbench_local.models.model_trial import (
    TRIAL_BATCH,
    ModelTrial,
    find_answer,
    list_trial_shapes,
    make_trial_images,
)
from robustbench_local.models.program_files import ProgramFile, read_program
from robustbench_local.models.program_module import LARGEST_BATCH, ProgramInput, ProgramModule
from robustbench_local.models.program_operators import is_quantized, keeps_state
from robustbench_local.models.program_results import (
    check_training_mode,
    describe_program,
    is_channels_last,
)


@dataclass(frozen=True)
class _ExportedInput:
    """The input of an exported program.

    Args:
        takes: What it takes.
        channels: Number of channels; None if it may vary.
        size: (H, W); None if it may vary.
    """

    takes: ProgramInput
    channels: int | None
    size: tuple[int, int] | None


def load_export(file: str, request: ModelRequest) -> LoadedModel:
    """Load the model in a file of torch.export; the user's permission is needed, for it is a program.

    Its number of classes, and whether it gives gradients, are found by asking it about a few images.

    Raises:
        ConfigError: If an option does not apply to a program.
        RefusedError: If it needs permission, is a decompression bomb, or holds compiled native code.
        ModelError: If it is no exported program, takes something else than a batch of images, was exported in
            training mode, or its number of classes is unknown.
    """
    program = read_program("export", file, request)
    where = program.path.name
    exported = load_exported(program)
    entry = _read_input(exported, where)
    module = exported.module()
    training_notes = check_training_mode(module, where)
    model = ProgramModule(
        module, entry.takes, file_sha256=program.sha256, is_stateless=not keeps_state(module)
    )
    trial = _try_program(model, entry, program, request)
    loaded = describe_program(model, program, trial, request)
    loaded.notes += training_notes
    loaded.channels, loaded.contract = entry.channels, InputContract(input_size=entry.size)
    return loaded


def _read_input(exported: Any, where: str) -> _ExportedInput:
    """Read what a program takes from its signature."""
    names = exported.graph_signature.user_inputs
    values = [
        node.meta.get("val")
        for node in exported.graph.nodes
        if node.op == "placeholder" and node.name in names
    ]
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    if len(values) != 1 or len(tensors) != 1:
        count = format_count(len(names), "input")
        raise ModelError(
            f"takes {count} ({', '.join(map(str, names))}), not one batch of images",
            where=where,
            remedy="export a module whose forward takes images alone",
        )
    shape, dtype = list(tensors[0].shape), tensors[0].dtype
    if len(shape) != 4 or not dtype.is_floating_point:
        raise ModelError(
            f"takes {dtype} {shape}, not floats (N, C, H, W)",
            where=where,
            remedy="export it with float images",
        )
    last = is_channels_last([size if isinstance(size, int) else None for size in shape])
    batch, channels, height, width = ([shape[0], shape[3], shape[1], shape[2]]) if last else shape
    least, most = _find_batch_limits(batch, exported.range_constraints)
    keyword = next(iter(exported.call_spec.in_spec.child(1).context), None)
    takes = ProgramInput(dtype=dtype, min_batch=least, max_batch=most, keyword=keyword, is_channels_last=last)
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    return _ExportedInput(takes, channels if isinstance(channels, int) else None, size)


def _find_batch_limits(batch: Any, constraints: Any) -> tuple[int, int]:
    """Return the smallest and the largest batch: of the example, unless the export let it vary."""
    if isinstance(batch, int):
        return batch, batch
    limits = constraints.get(batch.node.expr)
    if limits is None or not batch.node.expr.is_Symbol:  # a multiple of something: of the example's it is one
        return batch.node.hint, batch.node.hint
    most = LARGEST_BATCH if limits.upper > LARGEST_BATCH else int(limits.upper)
    return max(1, int(limits.lower)), most


def _try_program(
    model: nn.Module, entry: _ExportedInput, program: ProgramFile, request: ModelRequest
) -> ModelTrial | None:
    """Ask a program about a few images; return None where it fails and the number of classes is known."""
    if entry.size is not None:
        shapes = [(entry.channels or 3, *entry.size)]
    else:
        shapes = list_trial_shapes(model, request)
    count = min(TRIAL_BATCH, entry.takes.max_batch)
    attempts = ((copy.deepcopy(model), make_trial_images(shape, count)) for shape in shapes)
    answer = find_answer(attempts, request, where=program.path.name, is_quantized=is_quantized(model))
    return None if answer is None else answer[1]
