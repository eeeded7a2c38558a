"""A registry with two more doors: entry points of installed distributions, and files of the user's own."""

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
    """Our own classes by name, and those from outside; iteration and length are about our own.

    Args:
        kind: What is registered, for messages: ``"attack"``.
        base: Every class must be a subclass of it.
        entries: Our own, name to ``"module:attribute"``.
        group: The kind of entry points that are looked up.
    """

    def __init__(self, kind: str, base: type[T], entries: Mapping[str, str], *, group: ExtensionKind) -> None:
        super().__init__(kind, base, entries)
        self.group: ExtensionKind = group

    def __getitem__(self, name: str) -> type[T]:
        """The class of that name.

        Raises:
            ConfigError: If there is no such name, or what it leads to is no such class.
            RefusedError: If it is a file that may not run.
        """
        if name in self.entries:
            return super().__getitem__(name)
        found = self._load_outside(name)
        if found is None:
            names = {*self.entries, *(record.name for record in list_entry_points(self.group))}
            raise ConfigError(f"unknown {self.kind} {name!r}", remedy=did_you_mean(name, names))
        self._check_class(name, found)
        return found  # type: ignore[no-any-return]

    def __contains__(self, name: object) -> bool:
        if name in self.entries:
            return True
        if not isinstance(name, str):
            return False
        found = self._load_outside(name)
        return isinstance(found, type) and issubclass(found, self._base)

    def find_record(self, name: str) -> ExtensionRecord | None:
        """The entry point of that name; None if there is none, or the name is built in."""
        if name in self.entries or is_python_reference(name) or name in list_shipped_names():
            return None
        return find_entry_point(self.group, name)

    def list_refused(self) -> list[ExtensionRecord]:
        """The entry points that nobody can use, each with its problem; a built-in name is one."""
        records = refuse_own_names(list_entry_points(self.group), {*self.entries, *list_shipped_names()})
        return [record for record in records if record.problem]

    def _load_outside(self, name: str) -> Any:
        """What a name from outside leads to; None if there is no such name."""
        if is_python_reference(name):
            return load_python_object(name)
        record = self.find_record(name)
        return None if record is None else load_entry_point(record)

    def _check_class(self, name: str, found: Any) -> None:
        what = self._base.__name__
        if not (isinstance(found, type) and issubclass(found, self._base)):
            got = f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"
            raise ConfigError(
                f"is {got}, not a class of {self.kind}s", where=name, remedy=f"derive it from rbl.{what}"
            )
        if inspect.isabstract(found):
            missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
            raise ConfigError(f"is no complete {self.kind}: it lacks {missing}", where=name)
        annotations = vars(found).get("__annotations__", {}).values()
        has_fields = any("ClassVar" not in str(annotation) for annotation in annotations)
        if has_fields and "__dataclass_fields__" not in vars(found):
            remedy = f"write @dataclass(frozen=True, kw_only=True) above class {found.__name__}"
            raise ConfigError("is no dataclass of its own", where=name, remedy=remedy)

    def is_outside(self, name: str) -> bool:
        """Whether a name leads out of this package: to a file, or to an entry point; nothing is imported."""
        return is_python_reference(name) or self.find_record(name) is not None

    def describe_origin(self, name: str) -> str:
        """Where something from outside comes from: a file, or a distribution with its version."""
        record = self.find_record(name)
        return name if record is None else f"{record.name} of {record.distribution}"


def describe_outside_code(kind: Callable[..., Any]) -> dict[str, str]:
    """The identity of a class or function from outside, in named parts; empty for our own.

    In it are the code of the class as it is in memory, the whole files of its module and of all modules of
    the user's that these import, and the versions of the libraries that compute.

    Args:
        kind: Any class, or a function that makes something.
    """
    return describe_model(kind) if is_user_module(getattr(kind, "__module__", None) or "") else {}
