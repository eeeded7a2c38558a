"""Locations where a model may keep state besides its attributes, and a text of all of its state.

A forward can keep state in a global of its file, a closure, a class attribute, a default argument, a function
attribute or an ``lru_cache``. These locations are found from the names that the model's own code uses; code
of torch, of installed libraries and of this package is left out.
"""

from __future__ import annotations

import builtins
import functools
import hashlib
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MAX_NODES = 2_000
"""Maximum number of values visited inside one attribute or global."""
MAX_FULLY_READ_ELEMENTS = 4_096
"""Number of elements up to which a tensor is read in full; of a larger one, its sum, its ends and its
version."""
MISSING: Any = type("Missing", (), {"__module__": "builtins", "__deepcopy__": lambda self, _: self})()
"""The value of a name that does not exist, or not yet."""
GENERATOR_DIGEST_PREFIX = "random numbers"
"""Prefix of the digest of a random number generator."""
_INTERNAL_ATTRIBUTES = frozenset(vars(nn.Module())) | {"_is_full_backward_hook", "_compiled_call_impl"}
_HOOK_ATTRIBUTES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_LIBRARY_NAMES = sys.stdlib_module_names | {"torch", "torchvision", "timm", "numpy", "robustbench_local"}
_PLAIN_TYPES = (int, float, complex, str, bytes, bytearray, type(None))
_SCALAR_TYPES = frozenset({int, float, bool, type(None)})
_CONTAINER_TYPES = (list, tuple, dict, set, frozenset, deque)
_GENERATOR_TYPES = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_CACHE_TYPE: Any = type(functools.lru_cache(lambda: None))


@dataclass(frozen=True)
class ExternalValue:
    """A name outside a model that its code uses, and the value of that name."""

    path: str
    """Name of the value in messages."""
    read: Callable[[], Any]
    """Returns the value."""
    write: Callable[[Any], None]
    """Assigns another value to the name."""
    is_cache: bool = False
    """Whether it is an ``lru_cache``: it cannot be given other content, only emptied, as ``write`` does."""


def find_external_values(model: Any) -> list[ExternalValue]:
    """Find all names outside of a model in which its own code may keep state, each once.

    Args:
        model: A module, or any other callable.
    """
    walk = _StateFinder()
    walk.visit_model(model)
    return list(walk.external_values.values())


def describe_state(
    model: Any, external_values: list[ExternalValue], *, parameters: bool = True
) -> dict[str, str]:
    """Return a digest of the value of every attribute, parameter, buffer and outside name.

    Args:
        model: The model.
        external_values: The result of `find_external_values`.
        parameters: Whether the parameters' values are included.

    Returns:
        Digest by path. Two descriptions differ where something that a forward could read has changed.
    """
    digests: dict[str, str] = {}
    for prefix, part in _iterate_parts(model):
        values = {
            key: value for key, value in _read_attributes(part).items() if key not in _INTERNAL_ATTRIBUTES
        }
        if isinstance(part, nn.Module):
            values |= dict(part.named_buffers(recurse=False))
            values |= dict(part.named_parameters(recurse=False)) if parameters else {}
        digests |= {f"{prefix}{key}": digest_value(value) for key, value in values.items()}
    return digests | {
        external_value.path: digest_value(read_external_value(external_value))
        for external_value in external_values
    }


def read_external_value(external_value: ExternalValue) -> Any:
    """Return the value of a name, `MISSING` if it was deleted."""
    try:
        return external_value.read()
    except (AttributeError, LookupError, ValueError):  # the name was deleted
        return MISSING


def digest_value(value: Any) -> str:
    """Return a short text that changes with a value; for objects of unknown kinds only their type."""
    if type(value) in _SCALAR_TYPES or (
        type(value) is tuple and all(type(item) in _SCALAR_TYPES for item in value)
    ):
        return f"value {value!r}"
    nodes = iter(range(MAX_NODES))
    digest = hashlib.sha256()
    for word in _iterate_words(value, nodes, set()):
        digest.update(word.encode(errors="replace"))
    start = GENERATOR_DIGEST_PREFIX if isinstance(value, _GENERATOR_TYPES) else "value"
    return f"{start} {digest.hexdigest()[:16]}"


def _iterate_words(value: Any, nodes: Iterator[int], above: set[int]) -> Iterator[str]:
    """Iterate over the digest's input: plain values themselves, containers and objects by content."""
    if next(nodes, None) is None or id(value) in above:
        return
    yield type(value).__name__
    if isinstance(value, _PLAIN_TYPES):
        yield repr(value)[:10_000]
    elif isinstance(value, Tensor):
        yield _format_tensor(value)
    elif isinstance(value, np.ndarray):
        step = max(1, value.size // MAX_FULLY_READ_ELEMENTS)
        content = value.reshape(-1)[::step].tobytes()
        yield f"{value.shape} {value.dtype} {hashlib.sha256(content).hexdigest()}"
    elif isinstance(value, _GENERATOR_TYPES):
        yield _format_generator(value)
    elif isinstance(value, _CACHE_TYPE):
        yield str(value.cache_info().currsize)
    elif isinstance(value, _CONTAINER_TYPES):
        yield str(len(value))
        items: Any = value.items() if isinstance(value, dict) else value
        entries = sorted(items, key=repr) if isinstance(value, set | frozenset) else list(items)
        for entry in [*entries[:32], *entries[32:][-32:]]:
            yield from _iterate_words(entry, nodes, above | {id(value)})
    elif isinstance(value, nn.Module) or not _is_library_module(type(value).__module__):
        for key, entry in _read_attributes(value).items():
            yield key
            yield from _iterate_words(entry, nodes, above | {id(value)})


def _format_tensor(tensor: Tensor) -> str:
    head = f"{tuple(tensor.shape)} {tensor.dtype}"
    try:
        plain = tensor.detach().dequantize() if tensor.is_quantized else tensor.detach()
        if plain.numel() <= MAX_FULLY_READ_ELEMENTS:
            return f"{head} {plain.cpu().contiguous().view(-1).tolist()}"
        ends = plain.reshape(-1)[:: plain.numel() - 1].tolist()
        total = plain.abs().sum(dtype=torch.float64) if plain.is_floating_point() else plain.sum()
        return f"{head} {tensor._version} {ends} {float(total)!r}"  # noqa: SLF001
    except (RuntimeError, NotImplementedError, TypeError):  # sparse, meta, opaque
        return head


def _format_generator(generator: Any) -> str:
    if isinstance(generator, torch.Generator):
        return hashlib.sha256(generator.get_state().numpy().tobytes()).hexdigest()
    if isinstance(generator, np.random.Generator):
        return repr(generator.bit_generator.state)
    return repr(
        generator.get_state() if isinstance(generator, np.random.RandomState) else generator.getstate()
    )


def _iterate_parts(model: Any) -> Iterator[tuple[str, Any]]:
    """Iterate over a network's modules with their attribute path prefixes; or over the callable itself."""
    if not isinstance(model, nn.Module):
        owner = model.__self__ if isinstance(model, MethodType) else model
        yield f"{type(owner).__name__}.", owner
        return
    for name, part in model.named_modules():
        yield f"{name}." if name else "", part


def _read_attributes(owner: Any) -> Mapping[str, Any]:
    try:
        return dict(vars(owner))
    except TypeError:  # it has only slots, or is written in C
        return {}


def _is_library_module(name: str | None) -> bool:
    """Check whether a module belongs to Python, an installed library or this package."""
    if name is None or name.partition(".")[0] in _LIBRARY_NAMES:
        return True
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file


class _StateFinder:
    """Follows the names that code uses, starting from the model's classes."""

    def __init__(self) -> None:
        self.external_values: dict[str, ExternalValue] = {}
        self._visited_ids: set[int] = set()

    def visit_model(self, model: Any) -> None:
        """Visit a module with all its parts, or a callable."""
        for _, part in _iterate_parts(model):
            self._visit_callable(part)
            for value in _read_attributes(part).values():
                if isinstance(value, FunctionType | MethodType | functools.partial | _CACHE_TYPE):
                    self._visit_callable(value)
            if isinstance(part, nn.Module):
                hooks = [getattr(part, name, {}) for name in _HOOK_ATTRIBUTES]
                for hook in [hook for known in hooks for hook in known.values()]:
                    self._visit_callable(hook)

    def _is_new(self, value: Any) -> bool:
        """Check for a first visit; the value lives as long as the model, so its id is unique."""
        new = id(value) not in self._visited_ids
        self._visited_ids.add(id(value))
        return new

    def _visit_callable(self, value: Any) -> None:
        if isinstance(value, functools.partial):
            for inner in (value.func, *value.args, *value.keywords.values()):
                self._visit_callable(inner)
        elif isinstance(value, MethodType):
            self._visit_callable(value.__func__)
            self._visit_class(type(value.__self__))
        elif isinstance(value, _CACHE_TYPE):
            self._visit_cache(value)
        elif isinstance(value, FunctionType):
            self._visit_function(value)
        else:
            self._visit_class(type(value))

    def _visit_cache(self, cache: Any) -> None:
        if self._is_new(cache):
            path = f"cache of {cache.__qualname__}"
            self.external_values[path] = ExternalValue(
                path, lambda: cache, lambda _: cache.cache_clear(), is_cache=True
            )
            self._visit_callable(cache.__wrapped__)

    def _visit_class(self, kind: type) -> None:
        for base in kind.__mro__:
            if _is_library_module(base.__module__) or not self._is_new(base):
                continue
            used: set[str] = set()
            for name, value in list(vars(base).items()):
                inner = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
                if isinstance(inner, FunctionType | _CACHE_TYPE):
                    self._visit_callable(inner)
                    used |= _find_names(getattr(inner, "__wrapped__", inner).__code__)
                elif not name.startswith("__") and name != "_abc_impl":
                    write = functools.partial(setattr, base, name)
                    self._visit_value(
                        f"{base.__name__}.{name}", functools.partial(getattr, base, name), write, frozenset()
                    )
            for name in {name for name in used if not hasattr(base, name) and not name.startswith("__")}:
                self._add_missing(
                    f"{base.__name__}.{name}",
                    functools.partial(_get_attribute, base, name),
                    functools.partial(_set_attribute, base, name),
                )

    def _visit_function(self, function: FunctionType) -> None:
        if _is_library_module(function.__module__) or not self._is_new(function):
            return
        names, space = frozenset(_find_names(function.__code__)), function.__globals__
        for name in names:
            if name in space:
                self._visit_entry(space, name, function.__module__, names)
            elif not hasattr(builtins, name):  # a forward may create it, like a class attribute
                write = functools.partial(_set_entry, space, name)
                self._add_missing(
                    f"{_shorten_module_name(function.__module__)}.{name}",
                    functools.partial(space.get, name, MISSING),
                    write,
                )
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            path = f"{function.__qualname__} (closure).{name}"
            if not _is_empty(cell):
                write = functools.partial(setattr, cell, "cell_contents")
                self._visit_value(path, functools.partial(getattr, cell, "cell_contents"), write, names)
        for name in ("__defaults__", "__kwdefaults__"):
            if getattr(function, name):
                write = functools.partial(setattr, function, name)
                path = f"defaults of {function.__qualname__}"
                self._visit_value(path, functools.partial(getattr, function, name), write, names)
        for name in list(vars(function)):
            self._visit_entry(vars(function), name, function.__qualname__, names)
        for name in names - vars(function).keys() if function.__name__ in names else ():
            path, read = f"{function.__qualname__}.{name}", functools.partial(_get_attribute, function, name)
            self._add_missing(path, read, functools.partial(_set_attribute, function, name))

    def _visit_entry(self, space: dict[str, Any], name: str, owner: str, names: frozenset[str]) -> None:
        """Visit a name in a module or of a function."""
        write = functools.partial(space.__setitem__, name)
        self._visit_value(
            f"{_shorten_module_name(owner)}.{name}", functools.partial(space.__getitem__, name), write, names
        )

    def _add_missing(self, path: str, read: Callable[[], Any], write: Callable[[Any], None]) -> None:
        """Add a name that does not exist yet."""
        self.external_values.setdefault(path, ExternalValue(path, read, write))

    def _visit_value(
        self, path: str, read: Callable[[], Any], write: Callable[[Any], None], names: frozenset[str]
    ) -> None:
        value = read()
        if isinstance(value, ModuleType):
            if not _is_library_module(value.__name__) and self._is_new(value):
                for name in names & vars(value).keys():
                    self._visit_entry(vars(value), name, value.__name__, names)
        elif isinstance(value, type):
            self._visit_class(value)
        elif isinstance(value, FunctionType | MethodType | _CACHE_TYPE | functools.partial):
            self._visit_callable(value)
        elif _is_state(value):
            self.external_values[path] = ExternalValue(path, read, write)
            if not isinstance(value, (*_PLAIN_TYPES, *_CONTAINER_TYPES, Tensor, np.ndarray)) and self._is_new(
                value
            ):
                self.visit_model(value)


def _is_state(value: Any) -> bool:
    """Check whether a value can be compared with others of its kind, and copied."""
    kinds = (*_PLAIN_TYPES, *_CONTAINER_TYPES, *_GENERATOR_TYPES, Tensor, np.ndarray, nn.Module)
    return isinstance(value, kinds) or not _is_library_module(type(value).__module__)


def _find_names(code: CodeType) -> set[str]:
    """Find all global and attribute names that code uses, also as strings, with inner functions."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _find_names(constant)
        elif isinstance(constant, str) and constant.isidentifier():  # for getattr and setattr
            names.add(constant)
    return names


def _get_attribute(owner: Any, name: str) -> Any:
    return vars(owner).get(name, MISSING)


def _set_attribute(owner: Any, name: str, value: Any) -> None:
    if value is not MISSING:
        setattr(owner, name, value)
    elif name in vars(owner):
        delattr(owner, name)


def _set_entry(space: dict[str, Any], name: str, value: Any) -> None:
    if value is MISSING:
        space.pop(name, None)
    else:
        space[name] = value


def _is_empty(cell: CellType) -> bool:
    try:
        return cell.cell_contents is cell
    except ValueError:
        return True


def _shorten_module_name(module: str) -> str:
    """Return a module's name without the additions of loading a user's file."""
    head, _, rest = module.partition("robustbench_local_user_")
    return rest.rpartition("_")[0] if not head and rest else module
