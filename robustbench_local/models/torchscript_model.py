"""Models in TorchScript archives, run by torch itself, with gradients where the program has them."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from robustbench_local.classifier.foreign_errors import extract_first_line, refuse_shortage
from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.errors import ModelError
from robustbench_local.models.loaded_model import LoadedModel, ModelRequest
from robustbench_local.models.model_trial import (
    TRIAL_BATCH,
    ModelTrial,
    find_answer,
    list_trial_shapes,
    make_trial_images,
)
from robustbench_local.models.program_files import ProgramFile, read_program
from robustbench_local.models.program_module import ProgramInput, ProgramModule
from robustbench_local.models.program_operators import is_quantized
from robustbench_local.models.program_results import (
    check_training_mode,
    describe_program,
    is_channels_last,
)

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class _TracedInput:
    """The example that a module was traced with.

    Args:
        shape: (N, C, H, W) or (N, H, W, C).
        dtype: Its data type.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype


def load_torchscript(file: str, request: ModelRequest) -> LoadedModel:
    """Load the model in a TorchScript archive; the user's permission is needed, for it is a program.

    What the archive does not state is found by asking it about a few images: the number of classes, the data
    type, a fixed batch size, and whether it gives gradients.

    Raises:
        ConfigError: If an option does not apply to a program.
        RefusedError: If it needs permission, or is a decompression bomb.
        ModelError: If it is no TorchScript archive, takes something else than a batch of images, was traced
            in training mode, or its number of classes is unknown.
    """
    program = read_program("torchscript", file, request)
    where = program.path.name
    module = _load_archive(program)
    training_notes = check_training_mode(module, where)
    traced = _find_traced_input(module, where)
    was_training = bool(getattr(module, "training", False))
    module.eval()
    takes, trial = _find_input(module, traced, program, request)
    loaded = describe_program(
        ProgramModule(module, takes, file_sha256=program.sha256),
        program,
        trial,
        request,
    )
    loaded.notes += training_notes
    if was_training:
        loaded.notes.append("was saved in training mode; attacked in evaluation mode")
    if traced is not None and len(traced.shape) == 4:
        channels, height, width = _order_channels(traced.shape)
        loaded.channels, loaded.contract = channels, InputContract(input_size=(height, width))
    return loaded


def _load_archive(program: ProgramFile) -> Any:
    has_example = (
        "traced_inputs.pkl" in program.entries
    )  # without one, torch warns on the standard error stream
    try:
        with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated as a whole
            return torch.jit.load(  # type: ignore[no-untyped-call]
                io.BytesIO(program.content), map_location="cpu", _restore_shapes=has_example
            )
    except Exception as error:
        refuse_shortage(error, program.path.name)
        raise ModelError(
            f"torch cannot load it: {extract_first_line(error)}",
            where=program.path.name,
            remedy="save it again with torch.jit.save, by this version of torch",
        ) from error


def _find_traced_input(module: Any, where: str) -> _TracedInput | None:
    """Return the example that a module was traced with, if any; check that it takes one input."""
    if not hasattr(module, "forward"):
        raise ModelError("has no forward", where=where, remedy="save the module that classifies images")
    arguments = module.forward.schema.arguments[1:]
    required = [argument.name for argument in arguments if not argument.has_default_value()]
    if not arguments or len(required) > 1 or str(arguments[0].type) != "Tensor":
        names = ", ".join(f"{argument.name}: {argument.type}" for argument in arguments)
        raise ModelError(f"takes ({names}), not one batch of images", where=where)
    kind = list(module.forward.graph.inputs())[1].type()
    sizes, dtype = kind.sizes(), kind.dtype()
    if sizes is None or dtype is None:
        return None
    if len(sizes) != 4 or not dtype.is_floating_point:
        raise ModelError(
            f"was traced with {dtype} {tuple(sizes)}, not floats (N, C, H, W)",
            where=where,
            remedy="trace it with float images",
        )
    return _TracedInput(tuple(sizes), dtype)


def _find_input(
    module: Any, traced: _TracedInput | None, program: ProgramFile, request: ModelRequest
) -> tuple[ProgramInput, ModelTrial | None]:
    """Find by trial what a module takes, and what it answers; the trial is None where every one failed."""
    inputs = list(_list_inputs(module, traced, request))
    attempts = (
        (
            ProgramModule(copy.deepcopy(module), takes, file_sha256=""),
            make_trial_images(shape, min(TRIAL_BATCH, takes.max_batch)),
        )
        for takes, shape in inputs
    )
    quantized = is_quantized(module)
    answer = find_answer(attempts, request, where=program.path.name, is_quantized=quantized)
    if answer is None:
        return inputs[0][0], None
    index, trial = answer
    return inputs[index][0], trial


def _list_inputs(
    module: Any, traced: _TracedInput | None, request: ModelRequest
) -> Iterator[tuple[ProgramInput, tuple[int, int, int]]]:
    """Iterate over what a module may take, with the shape (C, H, W) of its images; the most likely first."""
    if traced is not None:
        last = is_channels_last(traced.shape)
        shapes = [_order_channels(traced.shape), *([request.image_shape] if request.image_shape else [])]
        dtypes, batches = [traced.dtype], [None, traced.shape[0]]
    else:
        last = False
        shapes = list_trial_shapes(module, request)
        stored = [value.dtype for value in module.parameters() if value.is_floating_point()]
        dtypes, batches = list(dict.fromkeys([*stored[:1], *([] if stored else _DTYPES)])), [None, 1]
    for dtype, shape, batch in product(dtypes, dict.fromkeys(shapes), batches):
        limits = {} if batch is None else {"min_batch": batch, "max_batch": batch}
        yield ProgramInput(dtype=dtype, is_channels_last=last, **limits), shape


def _order_channels(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return (C, H, W) of an input (N, C, H, W) or (N, H, W, C)."""
    if is_channels_last(shape):
        return shape[3], shape[1], shape[2]
    return shape[1], shape[2], shape[3]
