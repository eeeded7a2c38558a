"""Classification of a file's tensors that the network does not use: which are harmless, and why."""

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
"""Parts that have weights but do not affect the network's output: losses, teachers."""
_METRIC_PATTERN = re.compile(
    rf"(.*_)?(acc|accuracy|metrics?|auroc|auc|f1|f1_score|precision|recall|confmat|confusion_?matrix|kappa|"
    rf"n_averaged|n_?updates|num_updates|decay|global_step|steps?|epochs?|iterations?|best_\w+){_SUFFIX_PATTERN}",
    re.IGNORECASE,
)
"""Parts that hold numbers rather than weights: metrics, counters."""
_CONFUSION_PATTERN = re.compile(r"conf", re.IGNORECASE)
_BOOKKEEPING_PATTERN = re.compile(r"optim|sched|scaler|rng|lr_", re.IGNORECASE)
_MEAN_PATTERN = re.compile(r"(?P<stem>(.*\.)?(\w*_)?)(mean|mu)(?P<end>_?)", re.IGNORECASE)


@dataclass(frozen=True)
class Leftovers:
    """The tensors in the network's own mapping that the network does not use.

    Args:
        harmless: Tensors of losses, metrics, averages and teachers, which do not affect the network's output.
        normalization: Means and standard deviations per channel that are stored beside the network, if any.
        unexplained: All others: possibly weights that the network lacks.
    """

    harmless: tuple[str, ...]
    normalization: Normalization | None
    unexplained: tuple[str, ...]


def classify_leftovers(
    names: Iterable[str], tensors: Mapping[str, Tensor], is_own: Callable[[str], bool]
) -> Leftovers:
    """Separate harmless leftovers from those that may matter.

    Args:
        names: Dotted paths.
        tensors: The file's tensors by path.
        is_own: Tells if a path leads into one of the network's own parts, where every tensor matters.
    """
    paths = list(names)
    normalization_pair = _find_normalization([name for name in paths if not is_own(name)], tensors)
    normalization_paths = set(normalization_pair[0]) if normalization_pair else set()
    harmless = [name for name in paths if not is_own(name) and _is_harmless(name, tensors[name])]
    unexplained = tuple(name for name in paths if name not in normalization_paths and name not in harmless)
    return Leftovers(tuple(harmless), normalization_pair[1] if normalization_pair else None, unexplained)


def _is_harmless(name: str, tensor: Tensor) -> bool:
    """Return True if the path names a loss or a teacher, or a metric or counter of a fitting shape."""
    parts = name.split(".")
    if any(_LOSS_PATTERN.fullmatch(part) for part in parts):
        return True
    return any(
        _METRIC_PATTERN.fullmatch(part) and (tensor.ndim <= 1 or _CONFUSION_PATTERN.search(part) is not None)
        for part in parts
    )


def is_bookkeeping(name: str) -> bool:
    """Return True if a path leads into the state of an optimizer, a scheduler or a random generator."""
    return any(_BOOKKEEPING_PATTERN.search(part) for part in name.split("."))


def _find_normalization(
    names: list[str], tensors: Mapping[str, Tensor]
) -> tuple[tuple[str, str], Normalization] | None:
    """Find leftover tensors ``mean`` and ``std``, each with one entry or one per channel."""
    for name in names:
        match = _MEAN_PATTERN.fullmatch(name)
        if match is None:
            continue
        for word in ("std", "sigma", "STD", "Std"):
            other = f"{match['stem']}{word}{match['end']}"
            if other in names and 1 <= tensors[name].numel() == tensors[other].numel() <= 16:
                mean, std = (
                    tuple(round(value, 6) for value in tensors[path].detach().double().flatten().tolist())
                    for path in (name, other)
                )
                return (name, other), (mean, std)
    return None
