"""Names that a package offers and imports when they are first asked for: reading a gate needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def make_module_getattr(package: str, module_by_name: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package whose names lie in modules below it.

    Args:
        package: The package's dotted name.
        module_by_name: Each name that it offers, and the module, relative to the package, that has it.
    """

    def get_attribute(name: str) -> Any:
        if name not in module_by_name:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{module_by_name[name]}"), name)

    return get_attribute
