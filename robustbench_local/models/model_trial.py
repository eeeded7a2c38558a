"""Trials of a model on a few images: what its file does not state is found by asking."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_local.classifier import Access
from robustbench_local.classifier.autograd_graph import reaches_leaf
from robustbench_local.classifier.binary_output import select_entry
from robustbench_local.classifier.foreign_errors import extract_first_line, is_out_of_memory
from robustbench_local.classifier.model_output import select_output_tensor
from robustbench_local.classifier.state_guard import RandomStates
from robustbench_local.errors import ModelError, RobustbenchError
from robustbench_local.models.loaded_model import ModelRequest

TRIAL_BATCH = 3
"""Number of images of a trial: no traced program of 1, 2 or 4 images takes them by accident."""
_USUAL_SIZES = (32, 28, 224, 64, 16, 48, 96, 128, 256, 299)
"""Sides of the images that a model is tried on where nothing states them."""
NO_GRADIENTS_NOTE = (
    "gives no gradients of its pixels, as quantized models do not: access is scores, and white-box attacks "
    "are skipped"
)
ZERO_GRADIENTS_NOTE = (
    "its gradients are zero, as those of rounded values are: access is scores, and white-box attacks are "
    "skipped; access: gradients runs them all the same"
)
_DEAD_NODES = ("WarnNotImplemented", "NotImplemented")
"""How the nodes of autograd's graph begin that stand for operators without a derivative."""
_FLAT_NODES = ("RoundBackward", "FloorBackward", "CeilBackward", "TruncBackward", "SignBackward")
"""How those begin that give gradients of zero."""


@dataclass(frozen=True)
class ModelTrial:
    """What a trial found.

    Args:
        num_outputs: Number of values for each image in the selected output; None for labels.
        access: What the model offers to an attacker.
        notes: Remarks for the reader of the results.
    """

    num_outputs: int | None
    access: Access
    notes: tuple[str, ...] = ()


def make_trial_images(shape: tuple[int, int, int], count: int = TRIAL_BATCH) -> Tensor:
    """Make soft noise, (count, C, H, W) in [0.25, 0.75], the same in every process.

    Args:
        shape: (C, H, W).
        count: Number of images.
    """
    generator = torch.Generator().manual_seed(0)
    return 0.25 + 0.5 * torch.rand((count, *shape), generator=generator)


def list_trial_shapes(module: nn.Module, request: ModelRequest) -> list[tuple[int, int, int]]:
    """List the shapes (C, H, W) that a model is tried on, the most likely first.

    Args:
        module: The model; its first convolution tells the number of channels, if its weights are in sight.
        request: The user's options: the shape of the images, or the size that the model takes, where known.
    """
    if request.image_shape is not None:
        return [request.image_shape]
    filters = [value for _, value in module.named_parameters() if value.ndim == 4]
    channels = [int(filters[0].shape[1])] if filters and filters[0].shape[1] in (1, 3, 4) else [3, 1]
    sizes = [request.input_size] if request.input_size else [(side, side) for side in _USUAL_SIZES]
    return [(count, *size) for size in sizes for count in channels]


def find_answer(
    attempts: Iterable[tuple[nn.Module, Tensor]], request: ModelRequest, *, where: str, is_quantized: bool
) -> tuple[int, ModelTrial] | None:
    """Try models on images in turn, until one answers.

    Args:
        attempts: Models with images, the most likely first.
        request: The user's options.
        where: The model's name in messages.
        is_quantized: See `try_model`.

    Returns:
        The index of the first that answers, and its trial; None if none does and the number of classes is
        known without: then the model's first images show what is wrong.

    Raises:
        ModelError: If none answers, and the number of classes is unknown.
    """
    failures: list[ModelError] = []
    shapes = []
    for index, (module, images) in enumerate(attempts):
        shapes.append("x".join(map(str, images.shape[1:])))
        try:
            return index, try_model(
                module, images, output=request.output, where=where, is_quantized=is_quantized
            )
        except ModelError as error:
            failures.append(error)
    if (request.num_classes or request.default_classes) is not None:
        return None
    if len(set(shapes)) < 2:
        raise failures[0]
    raise ModelError(
        f"answers images of none of the sizes that were tried ({', '.join(dict.fromkeys(shapes))}): "
        f"{failures[0].what}",
        where=where,
        remedy="set input_size",
    )


def try_model(
    module: Callable[[Tensor], Any],
    images: Tensor,
    *,
    output: str | int | None,
    where: str,
    is_quantized: bool = False,
) -> ModelTrial:
    """Ask a model about a few images, and look whether gradients would lead back to their pixels.

    There is no backward pass: the first one of a process may start threads, after which its forks have none.
    Whether gradients tell the truth is asked later, see `probe_consistency`.

    Args:
        module: The model, on the device of the images, in evaluation mode; random states stay as they are.
        images: (N, C, H, W) in [0, 1].
        output: The entry of its output to read, see `Classifier`.
        where: Its name in messages.
        is_quantized: Whether it is known to round values, so that white-box attacks with gradients of zero
            are no use: another model that rounds is left to them, and to the diagnostics.

    Raises:
        ModelError: If it raises, its output has no such entry, or it is not one row for each image.
    """
    randomness = RandomStates.from_process()
    with warnings.catch_warnings(
        action="ignore"
    ):  # of quantized operators: deprecated, or without a derivative
        try:
            return _try_once(module, images, output, where, is_quantized)
        finally:
            randomness.restore_states()


def _try_once(
    module: Callable[[Tensor], Any], images: Tensor, output: str | int | None, where: str, is_quantized: bool
) -> ModelTrial:
    """Ask once, and look at the answer and its graph."""
    with torch.enable_grad():
        leaf = images.clone().requires_grad_()
        scores = _query_output(module, leaf, output, where)
    if not scores.is_floating_point() and scores.shape == (len(images),):
        return ModelTrial(None, "labels", ("answers with labels: access is labels",))
    if scores.ndim not in (1, 2) or len(scores) != len(images) or not scores.is_floating_point():
        raise ModelError(
            f"returned {scores.dtype} {tuple(scores.shape)} for {len(images)} images, not floats (N, K)",
            where=where,
            remedy="save it with logits as its output",
        )
    width = scores.shape[1] if scores.ndim == 2 else 1
    if not reaches_leaf(scores, leaf, without=_DEAD_NODES):
        return ModelTrial(width, "scores", (NO_GRADIENTS_NOTE,))
    if is_quantized and not reaches_leaf(scores, leaf, without=_DEAD_NODES + _FLAT_NODES):
        return ModelTrial(width, "scores", (ZERO_GRADIENTS_NOTE,))
    return ModelTrial(width, "gradients")


def _query_output(
    module: Callable[[Tensor], Any], images: Tensor, output: str | int | None, where: str
) -> Tensor:
    """Return the selected entry of a model's output."""
    try:
        answer = module(images)
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, RobustbenchError):
            raise
        what = f"raised {type(error).__name__} on images {tuple(images.shape)}: {extract_first_line(error)}"
        raise ModelError(what, where=where, remedy="check input_size and channels") from error
    entry, _ = select_entry(answer, output)
    return select_output_tensor(answer, entry, where)
