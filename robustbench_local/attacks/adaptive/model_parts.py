"""Submodules of a model by path, also those that a list, a dict or a closure holds."""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType, MethodType
from typing import Any

from torch import nn

from robustbench_local.errors import ConfigError

_MAX_DEPTH = 4


def iterate_parts(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """Iterate over all modules that a model holds, once each, the model itself excluded.

    Args:
        model: A module or another callable.

    Yields:
        Path and module: dotted names of attributes, indices of lists, keys of dicts, names of closure
        variables.
    """
    yield from _iterate_held(model, "", _MAX_DEPTH, {id(model)})


def resolve_part(model: Any, path: str) -> nn.Module:
    """Return the module at a path of `iterate_parts`.

    Raises:
        ConfigError: If there is none.
    """
    for name, part in iterate_parts(model):
        if name == path:
            return part
    raise ConfigError(f"the model has no part {path!r}")


def _iterate_held(holder: Any, path: str, depth: int, visited: set[int]) -> Iterator[tuple[str, nn.Module]]:
    """Iterate over the modules in a holder; ``visited`` keeps ids, so that circles end."""
    for name, value in _list_values(holder):
        if id(value) in visited:
            continue
        inner = f"{path}.{name}" if path else name
        if isinstance(value, nn.Module):
            visited.add(id(value))
            yield inner, value
            yield from _iterate_held(value, inner, _MAX_DEPTH, visited)
        elif depth and isinstance(value, list | tuple | dict | FunctionType | MethodType):
            visited.add(id(value))
            yield from _iterate_held(value, inner, depth - 1, visited)


def _list_values(holder: Any) -> list[tuple[str, Any]]:
    """List names and values that a holder may keep modules in."""
    if isinstance(holder, list | tuple):
        return [(str(index), value) for index, value in enumerate(holder)]
    if isinstance(holder, dict):
        return [(str(key), value) for key, value in holder.items()]
    if isinstance(holder, MethodType):
        return [("self", holder.__self__), *_list_values(holder.__func__)]
    if isinstance(holder, FunctionType):
        cells = zip(holder.__code__.co_freevars, holder.__closure__ or (), strict=True)
        return [(name, cell.cell_contents) for name, cell in cells if _is_filled(cell)]
    if isinstance(holder, nn.Module):
        own = {name: value for name, value in vars(holder).items() if not name.startswith("_")}
        return [*holder.named_children(), *own.items()]
    return [(name, value) for name, value in getattr(holder, "__dict__", {}).items()]


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  raises if empty
    except ValueError:
        return False
    return True
