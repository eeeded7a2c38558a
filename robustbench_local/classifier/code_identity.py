"""What Python objects would do, as text: code by its instructions, values by what they hold.

It is read from memory, so that it speaks of what will run, also where there is no source: a class of a
notebook, a lambda, a method that was put in place of another, a module that has changed on the disk since.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import dis
import functools
import hashlib
import os
import re
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_local.classifier.user_modules import USER_PREFIX, is_user_file, is_user_module

CODE_RECORD = "_robustbench_local_code"
"""Attribute of a model that names the files of its code; see `model_identity`."""
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_COPIED = re.compile(rf"{USER_PREFIX}(\w+?)_[0-9a-f]{{16}}")
_MANGLED = re.compile(r"___torch_mangle_\d+\.?")
_SIMPLE = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis))
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_NOT_OF_A_CLASS = frozenset(
    """
    __dict__ __weakref__ __module__ __doc__ __annotations__ __firstlineno__ __static_attributes__
    __abstractmethods__ _abc_impl __parameters__ __orig_bases__ __annotate_func__ __annotations_cache__
    __qualname__ __slots__ __match_args__ __dataclass_fields__ __dataclass_params__
    """.split()  # noqa: SIM905
)
_HOLDERS = (types.SimpleNamespace, argparse.Namespace, collections.UserDict, collections.UserList)
_MAX_DEPTH = 60
_MAX_REPR = 20_000


class Describer:
    """Describes objects that belong together; what was described once is only pointed at.

    Attributes:
        modules: Names of the modules that were met on the way.
    """

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []  # ids stay unique only while their objects live
        self._depth = 0
        self._assigned: dict[int, set[str]] = {}

    def describe(self, value: Any) -> str:
        """What a value is and holds, without memory addresses; the same in every process."""
        if isinstance(value, _SIMPLE):
            return f"{type(value).__name__} {value!r}"
        if id(value) in self._seen:
            return f"object {self._seen[id(value)]}"
        if self._depth >= _MAX_DEPTH:
            return "deeper"
        self._seen[id(value)] = len(self._seen)
        self._alive.append(value)
        self._depth += 1
        try:
            return self._described(value)
        finally:
            self._depth -= 1

    def describe_attributes(self, module: nn.Module) -> str:
        """What a module holds besides tensors and sub-modules: settings, hooks, methods of its own."""
        if type(module).__module__.startswith("torch._dynamo"):
            return ""  # the compiler's own state; what it compiles is a module within
        state = {key: value for key, value in vars(module).items() if key not in _of_any_module()}
        state.pop(CODE_RECORD, None)
        state |= {key: list(vars(module).get(key, {}).values()) for key in _HOOKS if vars(module).get(key)}
        return "; ".join(f"{key}={self.describe(value)}" for key, value in sorted(state.items()))

    def describe_module(self, module: nn.Module) -> str:
        """A module with all that is in it."""
        parts = []
        for name, one in module.named_modules():
            parts.append(
                f"{name}: {self.describe(type(one))} ({self.describe_attributes(one)}){describe_program(one)}"
            )
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        parts += [f"{name}: {describe_tensor(value)}" for name, value in sorted(tensors.items())]
        return "\n".join(parts)

    def _described(self, value: Any) -> str:
        try:
            for kinds, write in _WRITERS:
                if isinstance(value, kinds):
                    return write(self, value)
            return self._object(value)
        except Exception as error:  # noqa: BLE001 - any object of the user's may raise anything when looked at
            return f"{_place(type(value))} raises {type(error).__name__}"

    def _class(self, value: type) -> str:
        self.modules.add(value.__module__)
        parts = [_place(value)]
        for kind in value.__mro__[:-1]:
            self.modules.add(kind.__module__)
            own = is_user_module(kind.__module__)
            parts += [
                f"{name}: {self.describe(part)}"
                for name, part in sorted(vars(kind).items())
                if (own and name not in _NOT_OF_A_CLASS) or _is_foreign(part, kind)
            ]
        return "class " + "\n ".join(parts)

    def _function(self, value: types.FunctionType) -> str:
        self.modules.add(value.__module__ or "")
        compiled = getattr(value, "_torchdynamo_orig_callable", None)
        if compiled is not None:
            return self.describe(compiled)
        if not _is_users(value):
            return f"function {_place(value)}"
        cells = [_content(cell) for cell in value.__closure__ or ()]
        parts = (value.__defaults__, value.__kwdefaults__, cells)
        told = [describe_code(value.__code__), *(self.describe(part) for part in parts), self._globals(value)]
        held = {name: part for name, part in vars(value).items() if name != CODE_RECORD}
        told += [self.describe(held)] if held else []
        return f"function {_place(value)} " + "\n ".join(told)

    def _globals(self, function: types.FunctionType) -> str:
        """The values of global names that a function reads and none writes."""
        known = function.__globals__
        names = set(_names(function.__code__))
        constant = sorted(names & known.keys() - self._written(known) - {"__file__"})
        parts = []
        for name in constant:
            value = _without_folder(known[name], known.get("__file__"))
            if isinstance(value, types.ModuleType):
                parts.append(self._used_of(value, names))
            else:
                parts.append(f"{name}={self.describe(value)}")
        return "; ".join(filter(None, parts))

    def _written(self, known: Mapping[str, Any]) -> set[str]:
        """Global names that functions of a module assign: counters and memories, no constants."""
        if id(known) not in self._assigned:
            parts = [part for value in list(known.values()) for part in _functions(value)]
            own = [part.__code__ for part in parts if part.__globals__ is known]
            self._assigned[id(known)] = set().union(*map(_stored, own))
        return self._assigned[id(known)]

    def _used_of(self, module: types.ModuleType, names: set[str]) -> str:
        """A user's module by the values that are read from it."""
        self.modules.add(module.__name__)
        if not is_user_module(module.__name__):
            return ""
        held = vars(module)
        return "; ".join(
            f"{module.__name__}.{name}={self.describe(held[name])}"
            for name in sorted(names & held.keys())
            if isinstance(held[name], (*_SIMPLE, Tensor, types.FunctionType, type, tuple, list, dict))
        )

    def _method(self, value: types.MethodType) -> str:
        return f"method {self.describe(value.__func__)} of {self.describe(value.__self__)}"

    def _partial(self, value: functools.partial[Any]) -> str:
        return f"partial {self.describe((value.func, value.args, value.keywords))}"

    def _wrapped(self, value: Any) -> str:
        parts = (getattr(value, name, None) for name in ("fget", "fset", "func", "__func__"))
        return f"{type(value).__name__} {[self.describe(part) for part in parts if part is not None]}"

    def _sequence(self, value: Iterable[Any]) -> str:
        return f"{type(value).__name__} [{', '.join(self.describe(part) for part in value)}]"

    def _set(self, value: Iterable[Any]) -> str:
        return f"set {sorted(self.describe(part) for part in value)}"

    def _mapping(self, value: Mapping[Any, Any]) -> str:
        pairs = sorted((self.describe(key), self.describe(part)) for key, part in _sorted_items(value))
        return f"{type(value).__name__} {pairs}"

    def _array(self, value: np.ndarray[Any, Any]) -> str:
        if value.dtype.hasobject:
            return f"array {value.shape} {self.describe(value.tolist())}"
        return f"array {value.shape} {value.dtype} {hashlib.sha256(value.tobytes()).hexdigest()}"

    def _module_type(self, value: types.ModuleType) -> str:
        self.modules.add(value.__name__)
        return f"module {without_places(value.__name__)}"

    def _object(self, value: Any) -> str:
        """Any other object: one of the user's, or a mere holder, by what it holds."""
        kind = type(value)
        if not is_user_module(kind.__module__):
            self.modules.add(kind.__module__)
            if not (isinstance(value, _HOLDERS) or dataclasses.is_dataclass(kind)):
                return f"{_place(kind)} {_repr(value)}"
        slots = kind.__dict__.get("__slots__", ())
        names = [slots] if isinstance(slots, str) else list(slots)
        state = {name: getattr(value, name, None) for name in names} | dict(getattr(value, "__dict__", {}))
        state.pop(CODE_RECORD, None)
        return f"{self.describe(kind)} {self.describe({str(name): part for name, part in state.items()})}"


_WRITERS: tuple[tuple[Any, Callable[[Describer, Any], str]], ...] = (
    (Tensor, lambda _, value: describe_tensor(value)),
    (np.ndarray, Describer._array),  # noqa: SLF001
    (nn.Module, Describer.describe_module),
    (type, Describer._class),  # noqa: SLF001
    (types.FunctionType, Describer._function),  # noqa: SLF001
    (types.MethodType, Describer._method),  # noqa: SLF001
    (functools.partial, Describer._partial),  # noqa: SLF001
    ((property, staticmethod, classmethod, functools.cached_property), Describer._wrapped),  # noqa: SLF001
    (types.ModuleType, Describer._module_type),  # noqa: SLF001
    (types.CodeType, lambda _, value: describe_code(value)),
    (torch.jit.ScriptFunction, lambda _, value: _MANGLED.sub("", str(value.code))),
    (type(os.environ), lambda _, _value: "environment"),
    ((set, frozenset), Describer._set),  # noqa: SLF001
    ((list, tuple), Describer._sequence),  # noqa: SLF001
    (dict, Describer._mapping),  # noqa: SLF001
)


def describe_code(code: types.CodeType) -> str:
    """A function's instructions, names and constants; neither its file nor its lines."""
    constants = [_constant(value) for value in code.co_consts]
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    steps = hashlib.sha256(code.co_code).hexdigest()[:32]
    return f"code {steps} {counts} {names} {constants}"


def describe_tensor(value: Tensor) -> str:
    """A tensor by shape, type and the SHA-256 of its bytes."""
    if value.is_meta or value.layout != torch.strided or value.is_quantized:
        return f"tensor {tuple(value.shape)} {value.dtype} {hashlib.sha256(repr(value).encode()).hexdigest()}"
    content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return f"tensor {tuple(value.shape)} {value.dtype} {hashlib.sha256(content.tobytes()).hexdigest()}"


def describe_program(module: nn.Module) -> str:
    """The program of a module of TorchScript or torch.fx, whose class says nothing about it."""
    code = ""
    if not isinstance(module, torch.jit.ScriptModule | torch.fx.GraphModule):
        return code
    try:
        code = str(getattr(module, "code", ""))
        if isinstance(module, torch.jit.ScriptModule):
            names = sorted(module._concrete_type.get_attributes())  # noqa: SLF001 - nothing public names them
            settings = {name: getattr(module, name, None) for name in names}
            code += repr({name: value for name, value in settings.items() if not _is_inside(value)})
            code += repr(module.code_with_constants[1].const_mapping)
    except (RuntimeError, AttributeError):
        return f" {code}"
    return " " + _MANGLED.sub("", _ADDRESS.sub("", code))


def _is_inside(value: Any) -> bool:
    """Whether a module's own tensors and parts already say it."""
    return isinstance(value, Tensor | nn.Module)


def without_places(text: str) -> str:
    """A text without memory addresses and without the hashes in the names of users' modules."""
    return _COPIED.sub(r"\1", _ADDRESS.sub("", text))


@functools.cache
def _of_any_module() -> frozenset[str]:
    return frozenset(vars(nn.Module())) | {"_compiled_call_impl", "call_super_init"}


def _place(value: Any) -> str:
    return without_places(f"{value.__module__}.{value.__qualname__}")


def _constant(value: Any) -> str:
    if isinstance(value, types.CodeType):
        return describe_code(value)
    if isinstance(value, frozenset):  # its order is another in every process
        return f"frozenset {sorted(map(_constant, value))}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_constant, value))})"
    return f"{type(value).__name__} {value!r}"


def _names(code: types.CodeType) -> Iterable[str]:
    """Global names and attributes that a function reads, those of functions within it included."""
    yield from code.co_names
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            yield from _names(value)


def _functions(value: Any) -> Iterable[types.FunctionType]:
    """A function, or those of a class."""
    parts = list(vars(value).values()) if isinstance(value, type) else [value]
    parts = [part.__func__ if isinstance(part, staticmethod | classmethod) else part for part in parts]
    return (part for part in parts if isinstance(part, types.FunctionType))


@functools.lru_cache(maxsize=4096)
def _stored(code: types.CodeType) -> frozenset[str]:
    stored = {one.argval for one in dis.get_instructions(code) if one.opname == "STORE_GLOBAL"}
    inner = (value for value in code.co_consts if isinstance(value, types.CodeType))
    return frozenset(stored).union(*map(_stored, inner))


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return "empty cell"


def _is_users(function: types.FunctionType) -> bool:
    return is_user_module(function.__module__ or "") or is_user_file(function.__code__.co_filename)


def _is_foreign(part: Any, kind: type) -> bool:
    """Whether a function of the user's was put into a library's class."""
    return isinstance(part, types.FunctionType) and not is_user_module(kind.__module__) and _is_users(part)


def _without_folder(value: Any, file: str | None) -> Any:
    """A path below the folder of the code, as seen from there: where the folder lies decides nothing."""
    if file and isinstance(value, str | PurePath):
        return str(value).replace(os.path.dirname(file), ".")  # noqa: PTH120 - of text
    return value


def _sorted_items(value: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    """The items in an order that numbers what is in them alike in every process."""
    try:
        return sorted(value.items(), key=lambda pair: str(pair[0]))
    except RuntimeError:
        return list(value.items())


def _repr(value: Any) -> str:
    """What an object of a library says about itself."""
    try:
        return without_places(repr(value)[:_MAX_REPR])
    except Exception:  # noqa: BLE001 - any library may raise anything
        return ""
