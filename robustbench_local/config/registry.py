"""Registries of classes by name: lazy, typed, frozen, with "did you mean" suggestions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Generic, TypeVar

from robustbench_local.errors import ConfigError, InvariantError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """A fixed table of classes by name; a class is imported on first access.

    Args:
        kind: Kind of the entries, for messages: ``"attack"``.
        base: Base class of every entry.
        entries: Name to ``"module:attribute"``.
    """

    def __init__(self, kind: str, base: type[T], entries: Mapping[str, str]) -> None:
        self.kind = kind
        self.entries: Mapping[str, str] = MappingProxyType(dict(sorted(entries.items())))
        self._base = base

    def __getitem__(self, name: str) -> type[T]:
        """Return the class of that name.

        Raises:
            ConfigError: If there is no such name.
            InvariantError: If the entry does not lead to a subclass of the base.
        """
        if name not in self.entries:
            raise ConfigError(f"unknown {self.kind} {name!r}", remedy=did_you_mean(name, self.entries))
        module, _, attribute = self.entries[name].partition(":")
        entry = getattr(import_module(module), attribute, None)
        if not (isinstance(entry, type) and issubclass(entry, self._base)):
            raise InvariantError(f"{self.kind} {name!r} is registered as {self.entries[name]}, which is none")
        return entry

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"Registry({self.kind}: {', '.join(self.entries)})"
