"""Backward passes to the pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_local.classifier.autograd_graph import walk_graph
from robustbench_local.classifier.foreign_errors import extract_first_line, is_out_of_memory
from robustbench_local.errors import ModelError, RobustbenchError


def uses_reentrant_checkpoints(losses: Tensor) -> bool:
    """Check whether the graph behind losses has a checkpoint that requires a full backward pass."""
    return any(node.name() == "CheckpointFunctionBackward" for node in walk_graph(losses))


def compute_input_gradient(losses: Tensor, images: Tensor, *, full_backward: bool = False) -> Tensor | None:
    """Compute the gradient of every image's loss with respect to its pixels.

    Args:
        losses: (N,), or (N, T) for T backward passes through one forward pass; each row from its own image.
        images: (N, C, H, W), the leaf that the losses were computed from.
        full_backward: Whether the pass reaches every leaf of the graph, as some checkpoints require.

    Returns:
        (N, C, H, W), or (N, T, C, H, W); None if no path leads from the losses to the pixels.
    """
    columns = [losses] if losses.ndim == 1 else list(losses.unbind(dim=1))
    gradients = []
    for index, column in enumerate(columns):
        has_next = index + 1 < len(columns)
        if full_backward:
            images.grad = None
            torch.autograd.backward(column.sum(), retain_graph=has_next)
            slope = images.grad
        else:
            (slope,) = torch.autograd.grad(column.sum(), images, retain_graph=has_next, allow_unused=True)
        if slope is None:
            return None
        gradients.append(slope.contiguous())  # in the images' memory layout: sums of mixed layouts are slow
    return gradients[0] if losses.ndim == 1 else torch.stack(gradients, dim=1)


def differentiate_model(losses: Tensor, images: Tensor, *, full_backward: bool, name: str) -> Tensor | None:
    """Call `compute_input_gradient`; an exception in the model's own backward pass becomes a model error.

    Args:
        losses: As there.
        images: As there.
        full_backward: As there.
        name: Name of the model in messages.

    Raises:
        ModelError: If its backward pass raises.
    """
    try:
        return compute_input_gradient(losses, images, full_backward=full_backward)
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, RobustbenchError):
            raise
        message = f"its backward pass raised {type(error).__name__}: {extract_first_line(error)}"
        remedy = "mend it, or declare access: scores and use black-box attacks"
        raise ModelError(message, where=name, remedy=remedy) from error


def explain_missing_gradient(access: str, name: str) -> ModelError:
    """Explain why a model gave no gradients: it gives ``access`` only, or cuts the graph."""
    if access != "gradients":
        return ModelError(f"gives {access} only, no gradients", where=name, remedy="use a black-box attack")
    return ModelError(
        "no gradient path from the output to the pixels (no_grad, detach or numpy inside?)",
        where=name,
        remedy="remove it, or declare access: scores and use black-box attacks",
    )
