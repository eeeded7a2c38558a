"""A registry that also finds entry points of installed distributions and the user's own files."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from robustbench_local.classifier.model_identity import describe_model
from robustbench_local.classifier.user_modules import is_user_module
from robustbench_local.config.cards import list_shipped_names
from robustbench_local.config.registry import Registry
from robustbench_local.errors import ConfigError, did_you_mean
from robustbench_local.extensions.entry_points import (
    ExtensionKind,
    ExtensionRecord,
    find_entry_point,
    list_entry_points,
    load_entry_point,
    refuse_own_names,
)
from robustbench_local.extensions.python_reference import is_python_reference, load_python_object

T = TypeVar("T")


class OpenRegistry(Registry[T]):
    """Built-in classes by name, and external ones; iteration and length cover only the built-in ones.

    Args:
        kind: Kind of the entries, for messages: ``"attack"``.
        base: Base class of every entry.
        entries: Built-in classes, name to ``"module:attribute"``.
        group: The kind of entry points to look up.
    """

    def __init__(self, kind: str, base: type[T], entries: Mapping[str, str], *, group: ExtensionKind) -> None:
        super().__init__(kind, base, entries)
        self.group: ExtensionKind = group

    def __getitem__(self, name: str) -> type[T]:
        """Return the class of that name.

        Raises:
            ConfigError: If there is no such name, or it is not such a class.
            RefusedError: If it is a file that is not allowed to run.
        """
        if name in self.entries:
            return super().__getitem__(name)
        entry = self._load_outside(name)
        if entry is None:
            names = {*self.entries, *(record.name for record in list_entry_points(self.group))}
            raise ConfigError(f"unknown {self.kind} {name!r}", remedy=did_you_mean(name, names))
        self._check_class(name, entry)
        return entry  # type: ignore[no-any-return]

    def __contains__(self, name: object) -> bool:
        if name in self.entries:
            return True
        if not isinstance(name, str):
            return False
        entry = self._load_outside(name)
        return isinstance(entry, type) and issubclass(entry, self._base)

    def find_record(self, name: str) -> ExtensionRecord | None:
        """Return the entry point of that name; None if there is none, or the name is built in."""
        if name in self.entries or is_python_reference(name) or name in list_shipped_names():
            return None
        return find_entry_point(self.group, name)

    def list_refused(self) -> list[ExtensionRecord]:
        """Return the unusable entry points, each with its problem; a built-in name is one."""
        records = refuse_own_names(list_entry_points(self.group), {*self.entries, *list_shipped_names()})
        return [record for record in records if record.problem]

    def _load_outside(self, name: str) -> Any:
        """Load the object of an external name; None if there is no such name."""
        if is_python_reference(name):
            return load_python_object(name)
        record = self.find_record(name)
        return None if record is None else load_entry_point(record)

    def _check_class(self, name: str, entry: Any) -> None:
        base_name = self._base.__name__
        if not (isinstance(entry, type) and issubclass(entry, self._base)):
            description = (
                f"the class {entry.__name__}" if isinstance(entry, type) else f"a {type(entry).__name__}"
            )
            raise ConfigError(
                f"is {description}, not a class of {self.kind}s",
                where=name,
                remedy=f"derive it from rbl.{base_name}",
            )
        if inspect.isabstract(entry):
            missing = ", ".join(sorted(getattr(entry, "__abstractmethods__", ())))
            raise ConfigError(f"is no complete {self.kind}: it lacks {missing}", where=name)
        annotations = vars(entry).get("__annotations__", {}).values()
        has_fields = any("ClassVar" not in str(annotation) for annotation in annotations)
        if has_fields and "__dataclass_fields__" not in vars(entry):
            remedy = f"write @dataclass(frozen=True, kw_only=True) above class {entry.__name__}"
            raise ConfigError("is no dataclass of its own", where=name, remedy=remedy)

    def is_outside(self, name: str) -> bool:
        """Return True if a name is a file or an entry point; nothing is imported."""
        return is_python_reference(name) or self.find_record(name) is not None

    def describe_origin(self, name: str) -> str:
        """Return the origin of external code: a file, or a distribution with its version."""
        record = self.find_record(name)
        return name if record is None else f"{record.name} of {record.distribution}"


def describe_outside_code(kind: Callable[..., Any]) -> dict[str, str]:
    """Return the identity of an external class or function, in named parts; empty for built-in ones.

    It covers the code of the class in memory, the files of its module and of all the user's modules that it
    imports, and the versions of the computing libraries.

    Args:
        kind: A class, or a function that builds an object.
    """
    return describe_model(kind) if is_user_module(getattr(kind, "__module__", None) or "") else {}
