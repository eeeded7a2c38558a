"""Changes of the logits that starve losses of gradient, behind a sound network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.broken_models.case import ModelKind
from benchmarks.broken_models.surgery import postprocess


def multiply_logits(logits: Tensor, factor: float) -> Tensor:
    """Logits in another unit."""
    return logits * factor


def take_softmax(logits: Tensor, factor: float = 1.0) -> Tensor:
    """Probabilities."""
    return torch.softmax(factor * logits, dim=1)


def take_sigmoid(logits: Tensor) -> Tensor:
    """A probability for each class by itself."""
    return torch.sigmoid(logits - logits.mean(dim=1, keepdim=True))


def clip_logits(logits: Tensor, depth: float = 1.0) -> Tensor:
    """No logit lies more than ``depth`` below the largest: a clear decision has no slope."""
    return (logits - logits.amax(dim=1, keepdim=True)).clamp_min(-depth)


def round_logits(logits: Tensor, decimals: int = 2) -> Tensor:
    """So many decimals."""
    return torch.round(logits, decimals=decimals)


def keep_label(logits: Tensor) -> Tensor:
    """One for the predicted class, zero for all others."""
    return torch.nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1]).to(logits.dtype)


def shift_logits(logits: Tensor, offset: float = 1e6) -> Tensor:
    """A constant so large that float32 rounds the logits to steps of 1/16."""
    return logits + offset


def _make_output_kind(
    name: str, change: Callable[[Tensor], Tensor], networks: tuple[str, ...], expected: str
) -> ModelKind:
    return ModelKind(
        name=name, build=lambda base: postprocess(base, change), networks=networks, expected=expected
    )


OUTPUT_KINDS = (
    _make_output_kind(
        "logits x100",
        partial(multiply_logits, factor=100.0),
        ("cifar10", "signs"),
        "D6c, D17, D18; rescaled losses",
    ),
    _make_output_kind(
        "logits x1000",
        partial(multiply_logits, factor=1000.0),
        ("mnist", "signs-at", "gtsrb"),
        "D6c, D17, D18; rescaled losses",
    ),
    _make_output_kind(
        "logits x1e-4", partial(multiply_logits, factor=1e-4), ("cifar10", "signs"), "rescaled losses"
    ),
    _make_output_kind("softmax output", take_softmax, ("mnist", "signs"), "D5; logarithm"),
    _make_output_kind(
        "saturated softmax output",
        partial(take_softmax, factor=30.0),
        ("cifar10", "signs-at"),
        "D5, D6b; transfer from the network underneath",
    ),
    _make_output_kind("sigmoid output", take_sigmoid, ("cifar10", "signs"), "D6c; rescaled losses"),
    _make_output_kind("clipped logits", clip_logits, ("cifar10", "signs"), "D6b; network underneath"),
    _make_output_kind("rounded logits", round_logits, ("mnist", "signs"), "D6b; BPDA"),
    _make_output_kind("label only", keep_label, ("cifar10", "signs"), "D6a; label-based attacks, student"),
    _make_output_kind(
        "logits +1e6", shift_logits, ("cifar10", "signs-at"), "D18; network underneath, score-based"
    ),
)
"""Kinds that change the logits."""
