"""Tensors of a file that the network has no place for: which of them do not matter, and why."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from robustbench_local.classifier.normalizations import Normalization

_SUFFIX_PATTERN = r"(_?\d+|_fn|_func|_function|_train|_val|_test|_weights?|_meter)?"
_LOSS_PATTERN = re.compile(
    rf"(.*_)?(loss|losses|criterion|criteria|objective|teacher|class_weights?|pos_weight){_SUFFIX_PATTERN}",
    re.IGNORECASE,
)
"""Parts that have weights and still no say in the network's answers: losses, teachers."""
_METRIC_PATTERN = re.compile(
    rf"(.*_)?(acc|accuracy|metrics?|auroc|auc|f1|f1_score|precision|recall|confmat|confusion_?matrix|kappa|"
    rf"n_averaged|n_?updates|num_updates|decay|global_step|steps?|epochs?|iterations?|best_\w+){_SUFFIX_PATTERN}",
    re.IGNORECASE,
)
"""Parts that keep numbers, no weights: metrics, counters."""
_CONFUSION_PATTERN = re.compile(r"conf", re.IGNORECASE)
_BOOKKEEPING_PATTERN = re.compile(r"optim|sched|scaler|rng|lr_", re.IGNORECASE)
_MEAN_PATTERN = re.compile(r"(?P<stem>(.*\.)?(\w*_)?)(mean|mu)(?P<end>_?)", re.IGNORECASE)


@dataclass(frozen=True)
class Leftovers:
    """What of the network's own mapping is left over once the network has taken its tensors.

    Args:
        harmless: Parts of losses, metrics, averages and teachers: no part of the network's answers.
        normalization: Means and standard deviations a channel that lie beside the network, if any do.
        unexplained: All others; weights that cannot be placed would be weights that are missed.
    """

    harmless: tuple[str, ...]
    normalization: Normalization | None
    unexplained: tuple[str, ...]


def classify_leftovers(
    names: Iterable[str], tensors: Mapping[str, Tensor], is_own: Callable[[str], bool]
) -> Leftovers:
    """Tell the leftovers that do not matter from those that do.

    Args:
        names: Dotted paths.
        tensors: The file's tensors by path.
        is_own: Whether a path leads into one of the network's own parts, where everything matters.
    """
    left = list(names)
    pair = _find_normalization([name for name in left if not is_own(name)], tensors)
    taken = set(pair[0]) if pair else set()
    harmless = [name for name in left if not is_own(name) and _is_harmless(name, tensors[name])]
    unexplained = tuple(name for name in left if name not in taken and name not in harmless)
    return Leftovers(tuple(harmless), pair[1] if pair else None, unexplained)


def _is_harmless(name: str, tensor: Tensor) -> bool:
    """Whether a part of a path names a loss or a teacher, or a metric or counter whose shape is one's."""
    parts = name.split(".")
    if any(_LOSS_PATTERN.fullmatch(part) for part in parts):
        return True
    return any(
        _METRIC_PATTERN.fullmatch(part) and (tensor.ndim <= 1 or _CONFUSION_PATTERN.search(part) is not None)
        for part in parts
    )


def is_bookkeeping(name: str) -> bool:
    """Whether a path leads into the state of an optimizer, a scheduler or a random generator."""
    return any(_BOOKKEEPING_PATTERN.search(part) for part in name.split("."))


def _find_normalization(
    names: list[str], tensors: Mapping[str, Tensor]
) -> tuple[tuple[str, str], Normalization] | None:
    """A pair of leftover tensors ``mean`` and ``std``, with 1 or a channel's number of entries each."""
    for name in names:
        found = _MEAN_PATTERN.fullmatch(name)
        if found is None:
            continue
        for word in ("std", "sigma", "STD", "Std"):
            other = f"{found['stem']}{word}{found['end']}"
            if other in names and 1 <= tensors[name].numel() == tensors[other].numel() <= 16:
                mean, std = (
                    tuple(round(value, 6) for value in tensors[one].detach().double().flatten().tolist())
                    for one in (name, other)
                )
                return (name, other), (mean, std)
    return None
