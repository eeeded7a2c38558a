"""Extraction of logits from any model output: a tensor, an entry of a dict or tuple, or bare labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from robustbench_local.classifier.abstention import (
    append_rejection_by_score,
    append_rejection_of_nan,
    move_rejecting_output,
)
from robustbench_local.classifier.abstention_declaration import Abstention
from robustbench_local.classifier.binary_output import (
    OUTPUT_KINDS,
    expand_to_two_logits,
    select_entry,
)
from robustbench_local.classifier.literals import BINARY_OUTPUT_REMEDY
from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import ModelError


def read_logits(output: Any, count: int, num_classes: int, *, key: str | int | None, name: str) -> Tensor:
    """Extract the logits, (N, K) float32, from a model's output.

    Args:
        output: The output: a tensor or array, or a dict or tuple of them.
        count: N, the number of input images.
        num_classes: K, the declared number of classes.
        key: The entry of a dict or tuple that holds the logits; ``"sigmoid"``, ``"logit"`` or
            ``"ENTRY:logit"`` for one output that stands for two classes, see `binary_output`.
        name: Name of the model in messages.

    Raises:
        ModelError: If there is no such entry, or it is not N rows of K floats.
    """
    entry, head = select_entry(output, key)
    scores = select_output_tensor(output, entry, name)
    if head is not None:
        return expand_to_two_logits(scores, count, head, name)
    if scores.is_floating_point() and scores.numel() == count and num_classes == 2:
        raise ModelError(
            f"returned one value an image, {tuple(scores.shape)}, but 2 classes are declared",
            where=name,
            remedy=BINARY_OUTPUT_REMEDY,
        )
    if scores.ndim != 2 or not scores.is_floating_point() or len(scores) != count:
        raise ModelError(
            f"returned {scores.dtype} {tuple(scores.shape)} for {format_count(count, 'image')}, "
            "not floats (N, K)",
            where=name,
            remedy="return logits, or declare access: labels if it returns labels",
        )
    if scores.shape[1] != num_classes:
        raise ModelError(
            f"has {format_count(scores.shape[1], 'output')}, but {num_classes} classes are declared",
            where=name,
            remedy=_explain_output_count(scores.shape[1], num_classes),
        )
    return scores.float()


def read_abstaining_logits(
    output: Any, count: int, num_classes: int, abstention: Abstention, *, key: str | int | None, name: str
) -> Tensor:
    """Extract the logits of a model that may reject images, (N, K + 1) float32, the rejecting one last.

    Args:
        output: As for `read_logits`.
        count: N.
        num_classes: K, without the rejecting answer.
        abstention: How the model rejects.
        key: As for `read_logits`.
        name: Name of the model in messages.

    Raises:
        ModelError: As `read_logits`, or if there is no accepting entry with one value an image.
    """
    scores = read_logits(output, count, num_classes + abstention.extra_outputs, key=key, name=name)
    if abstention.kind == "class":
        return move_rejecting_output(scores, abstention.index)
    if abstention.kind == "nan":
        return append_rejection_of_nan(scores)
    accepting = select_output_tensor(output, abstention.entry, name)
    if accepting.numel() != count:
        raise ModelError(
            f"accepts by {tuple(accepting.shape)} for {count} images, not by one value an image",
            where=name,
            remedy="set abstain: {output: ENTRY} to the entry with one value an image",
        )
    return append_rejection_by_score(scores, accepting, abstention.threshold)


def read_labels(output: Any, count: int, num_classes: int, *, key: str | int | None, name: str) -> Tensor:
    """Convert labels, (N,), or the argmax of scores, (N, K), to one-hot rows (N, K) float32.

    A row of scores with NaN stays NaN, so that it never counts as an answer. Arguments as `read_logits`.

    Raises:
        ModelError: If they are not N integers from 0 to K - 1.
    """
    entry, head = select_entry(output, key)
    answer = select_output_tensor(output, entry, name)
    if answer.is_floating_point() and (answer.ndim == 2 or head is not None):
        scores = read_logits(answer, count, num_classes, key=head, name=name)
        rows = functional.one_hot(scores.argmax(dim=1), num_classes).float()
        return rows.masked_fill(scores.isnan().any(dim=1, keepdim=True), torch.nan)
    if answer.shape != (count,) or answer.is_floating_point() or answer.dtype == torch.bool:
        message = (
            f"returned {answer.dtype} {tuple(answer.shape)} for "
            f"{format_count(count, 'image')}, not labels (N,)"
        )
        raise ModelError(message, where=name)
    if count and not 0 <= int(answer.min()) <= int(answer.max()) < num_classes:
        message = (
            f"returned labels from {int(answer.min())} to {int(answer.max())} with {num_classes} classes"
        )
        raise ModelError(message, where=name, remedy="return class numbers from 0, and check num_classes")
    return functional.one_hot(answer.long(), num_classes).float()


def _explain_output_count(found: int, declared: int) -> str:
    """Explain what to do about a number of outputs that is not the declared number of classes."""
    if found == 1:
        return BINARY_OUTPUT_REMEDY
    fitting = f"set num_classes: {found}, or use data with {found} classes"
    if found != declared + 1:
        return fitting
    return f"{fitting}; if one output means that the image is rejected, declare abstain: last"


def select_output_tensor(output: Any, key: str | int | None, name: str) -> Tensor:
    """Return the tensor in an entry of a model's output.

    Args:
        output: A tensor or array, or a dict or tuple of them.
        key: The entry; None for the output itself.
        name: Name of the model in messages.

    Raises:
        ModelError: If there is no such entry, or it is no tensor.
    """
    selected = _select_output(output, key, name)
    if isinstance(selected, np.ndarray):
        selected = torch.from_numpy(selected)
    if not isinstance(selected, Tensor):
        raise ModelError(f"returned {type(selected).__name__}, not a tensor of logits", where=name)
    return selected


def _select_output(output: Any, key: str | int | None, name: str) -> Any:
    if not isinstance(output, Mapping | tuple | list):
        return output
    entries = output if isinstance(output, Mapping) else dict(enumerate(output))
    wanted = int(key) if isinstance(key, str) and key.isdigit() and key not in entries else key
    if wanted in entries:
        return entries[wanted]
    if isinstance(wanted, int) and 0 <= wanted < len(entries):
        return list(entries.values())[wanted]
    choices = ", ".join(f"{entry} {tuple(getattr(value, 'shape', ()))}" for entry, value in entries.items())
    problem = "output: is not declared" if key is None else f"there is no output {key!r}"
    raise ModelError(
        f"returned a {type(output).__name__} and {problem}; it has {choices}",
        where=name,
        remedy="declare output: the entry that holds the logits"
        + (f", here ENTRY:{key}" if key in OUTPUT_KINDS else ""),
    )
