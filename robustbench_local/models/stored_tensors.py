"""The content of a weights file, flattened: every tensor under its dotted path, however deeply nested."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from robustbench_local.errors import ModelError

BATCH_COUNTER_NAME = "num_batches_tracked"
"""Batch norm's counter, which some scripts save as a Python number."""
_MAX_DEPTH = 20
_MAX_VALUES = 1_000_000
_MAX_SHOWN_NAMES, _MAX_NAME_CHARACTERS = 5, 90


@dataclass(frozen=True)
class StoredTensors:
    """The tensors of a file.

    Args:
        tensors: Dotted path -> tensor, in the file's order.
        containers: Path of a tensor -> path of the mapping that holds it; ``""`` for the outermost.
        versions: Container -> torch's metadata of the state_dict about the versions of layers.
    """

    tensors: Mapping[str, Tensor]
    containers: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def select_entry(self, entry: str, where: str) -> StoredTensors:
        """Select the tensors under a dotted path, which remains the prefix of their paths.

        Args:
            entry: The path; ``"."`` for the tensors directly in the outermost mapping.
            where: The file's name, for messages.

        Raises:
            ModelError: If there are no tensors under the path.
        """
        is_outermost = entry == "."
        tensors = {
            name: value
            for name, value in self.tensors.items()
            if (is_outermost and not self.containers[name]) or name.startswith(f"{entry}.")
        }
        if not tensors:
            paths = sorted(
                {path for name in self.tensors for path in _iterate_parents(name)}, key=_sort_by_depth
            )
            raise ModelError(
                f"has no entry {entry!r} with tensors, only {shorten_names(paths) or 'names without a dot'}",
                where=where,
                remedy="name one of these as entry, or leave entry out",
            )
        return StoredTensors(tensors, {name: self.containers[name] for name in tensors}, self.versions)


def collect_tensors(loaded: Any, where: str) -> StoredTensors:
    """Collect every tensor in the content of a file.

    Args:
        loaded: Nested mappings and lists of tensors.
        where: The file's name, for messages.

    Raises:
        ModelError: If it is not a mapping, or holds no named tensor.
    """
    if not isinstance(loaded, Mapping):
        kind = type(loaded).__name__
        raise ModelError(f"holds a {kind}, not a state_dict", where=where, remedy="save model.state_dict()")
    tensors: dict[str, Tensor] = {}
    containers: dict[str, str] = {}
    versions: dict[str, Mapping[str, Any]] = {}
    for count, (container, name, value) in enumerate(_iterate_tensors(loaded, "", 0)):
        if count > _MAX_VALUES:
            raise ModelError(f"holds more than {_MAX_VALUES:,} nested values", where=where)
        if value is None:
            continue
        if isinstance(value, Mapping):
            versions[container] = getattr(value, "_metadata", {})
        elif name in tensors:
            raise ModelError(f"names {name!r} twice, in nested mappings", where=where)
        else:
            tensors[name], containers[name] = value, container
    if not tensors:
        listed = shorten_names([str(key) for key in loaded]) or "nothing"
        raise ModelError(
            f"holds no state_dict; it has {listed}", where=where, remedy="save model.state_dict()"
        )
    return StoredTensors(tensors, containers, versions)


def shorten_names(names: Sequence[str]) -> str:
    """Format the first few of many names for a line of text."""
    shortened = [
        name if len(name) <= _MAX_NAME_CHARACTERS else f"{name[:_MAX_NAME_CHARACTERS]}..."
        for name in names[:_MAX_SHOWN_NAMES]
    ]
    return ", ".join(shortened) + (", ..." if len(names) > _MAX_SHOWN_NAMES else "")


def _iterate_tensors(value: Any, path: str, depth: int) -> Iterator[tuple[str, str, Any]]:
    """Yield tensors with container and path, containers with state_dict versions, None for other values."""
    items = enumerate(value) if isinstance(value, list | tuple) else value.items()
    if isinstance(value, Mapping) and isinstance(getattr(value, "_metadata", None), Mapping):
        yield path, path, value
    for key, part in items:
        name = f"{path}.{key}" if path else str(key)
        if isinstance(part, Tensor):
            yield path, name, part.detach()
        elif isinstance(part, int | float) and name.endswith(BATCH_COUNTER_NAME):
            yield path, name, torch.tensor(int(part))
        elif isinstance(part, Mapping | list | tuple) and depth < _MAX_DEPTH:
            yield from _iterate_tensors(part, name, depth + 1)
        else:
            yield path, name, None


def _iterate_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts)))


def _sort_by_depth(path: str) -> tuple[int, str]:
    return path.count("."), path
