"""Binary models with a single output: the probability after a sigmoid, or the logit before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import ModelError

OutputKind = Literal["sigmoid", "logit"]
"""The kind of a single output: ``"sigmoid"``, the probability of class 1; ``"logit"``, the value before the
sigmoid, positive for class 1."""
OUTPUT_KINDS: tuple[OutputKind, ...] = get_args(OutputKind)
MIN_CHECKED_SCORES = 8
"""Number of scores of a declared logit to check. If all lie in [0, 1] they are probabilities: taken as
logits, these would make every image class 1."""


def parse_output_key(output: str | int | None) -> tuple[str | int | None, OutputKind | None]:
    """Split an output key into the entry of a dict or tuple and the kind of its single output.

    ``"sigmoid"`` and ``"logit"`` alone mean the model's whole answer, ``"scores:logit"`` or ``"0:sigmoid"``
    an entry of it; everything else is the name or position of an entry with one logit per class.
    """
    if not isinstance(output, str):
        return output, None
    entry, _, kind = output.rpartition(":")
    for head in OUTPUT_KINDS:
        if kind == head:
            return entry or None, head
    return output, None


def check_output_kind(
    output: str | int | None, num_classes: int, class_names: Sequence[str] | None, name: str
) -> tuple[str, LogitRangeCheck | None]:
    """Return a note about a declared single output, and a range check if it may be the other kind.

    Raises:
        ModelError: If it is declared for a number of classes other than two.
    """
    _, head = parse_output_key(output)
    if head is None:
        return "", None
    if num_classes != 2:
        message = f"output: {head} stands for 2 classes, but {num_classes} are declared"
        raise ModelError(message, where=name, remedy="leave num_classes out, or set it to 2")
    named = f" ({class_names[1]})" if class_names else ""
    kind = "the probability" if head == "sigmoid" else "the logit"
    return f"its one output is read as {kind} of class 1{named}", LogitRangeCheck(
        name
    ) if head == "logit" else None


def select_entry(output: Any, key: str | int | None) -> tuple[str | int | None, OutputKind | None]:
    """Select as `parse_output_key` does, but prefer an existing entry whose name equals the kind."""
    entry, head = parse_output_key(key)
    if head is not None and entry is None and isinstance(output, Mapping | tuple | list):
        named = output.get(head) if isinstance(output, Mapping) else None
        shape = tuple(getattr(named, "shape", ()))
        return head, None if len(shape) == 2 and shape[1] > 1 else head
    return entry, head


def expand_to_two_logits(scores: Tensor, count: int, head: OutputKind, name: str) -> Tensor:
    """Return two logits, (N, 2): 0 for class 0 and the log-odds of class 1, so that softmax gives the odds.

    A probability of exactly 0 or 1 becomes the largest log-odds of its precision; its gradient is the
    sigmoid's own, which is 0 there. NaN stays NaN.

    Args:
        scores: The model's output, N values of any shape, floating.
        count: N.
        head: Kind of the output.
        name: Name of the model in messages.

    Raises:
        ModelError: If there is more than one value per image, or a probability lies outside [0, 1].
    """
    if scores.numel() != count or not scores.is_floating_point():
        raise ModelError(
            f"returned {scores.dtype} {tuple(scores.shape)} for {format_count(count, 'image')}, "
            "not one float an image",
            where=name,
            remedy=f"leave output: {head} out if it gives one output a class",
        )
    scores = scores.reshape(count)
    scores = scores if scores.dtype == torch.float64 else scores.float()
    odds = _compute_log_odds(scores, name) if head == "sigmoid" else scores
    return torch.stack([torch.zeros_like(odds), odds], dim=1).float()


def _compute_log_odds(probabilities: Tensor, name: str) -> Tensor:
    outside = (probabilities < 0) | (probabilities > 1)
    if bool(outside.any()):
        value = probabilities[outside][0].item()
        raise ModelError(
            f"returned {value:.4g}, which is no probability, but output: sigmoid is declared",
            where=name,
            remedy="declare output: logit if it is the value before the sigmoid",
        )
    limits = torch.finfo(probabilities.dtype)
    below_one = torch.where(probabilities >= 1, 1 - limits.eps / 2, probabilities)
    inside = torch.where(below_one <= 0, limits.tiny, below_one)
    return torch.log(inside) - torch.log1p(-inside)


class LogitRangeCheck:
    """Checks the first scores of a declared logit: probabilities never leave [0, 1], logits do.

    Args:
        name: Name of the model in messages.
    """

    def __init__(self, name: str) -> None:
        self._name, self._checked_scores = name, 0

    def check_logits(self, logits: Tensor) -> bool:
        """Check the scores in (N, 2) logits with the earlier ones; return True if no more are needed.

        Raises:
            ModelError: If ``MIN_CHECKED_SCORES`` of them, and all, lie in [0, 1].
        """
        scores = logits.detach()[:, 1]
        if not bool(((scores >= 0) & (scores <= 1)).all()):
            return True
        self._checked_scores += len(scores)
        if self._checked_scores < MIN_CHECKED_SCORES:
            return False
        raise ModelError(
            "declared output: logit, but its values all lie in [0, 1], as probabilities do: "
            "read as logits they would make every image class 1",
            where=self._name,
            remedy="declare output: sigmoid, or return two logits an image, 0 and the value",
        )
