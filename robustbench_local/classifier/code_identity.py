"""A textual description of Python objects for digests: code by its instructions, values by their content.

It is read from memory, so it describes the code that will run, even where there is no source: a class in a
notebook, a lambda, a monkey-patched method, or a module whose file has changed since it was imported.
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
from contextlib import suppress
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_local.classifier.tensor_identity import describe_tensor, remove_memory_addresses
from robustbench_local.classifier.user_modules import USER_PREFIX, is_user_file, is_user_module

CODE_RECORD_ATTRIBUTE = "_robustbench_local_code"
"""Attribute of a model that names the files of its code; see `model_identity`."""
_USER_MODULE_HASH = re.compile(rf"{USER_PREFIX}(\w+?)_[0-9a-f]{{16}}")
_TORCHSCRIPT_MANGLING = re.compile(r"___torch_mangle_\d+\.?")
_SIMPLE_TYPES = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis))
_HOOK_ATTRIBUTES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_IGNORED_CLASS_ATTRIBUTES = frozenset(
    """
    __dict__ __weakref__ __module__ __doc__ __annotations__ __firstlineno__ __static_attributes__
    __abstractmethods__ _abc_impl __parameters__ __orig_bases__ __annotate_func__ __annotations_cache__
    __qualname__ __slots__ __match_args__ __dataclass_fields__ __dataclass_params__
    """.split()  # noqa: SIM905
)
_HOLDER_TYPES = (types.SimpleNamespace, argparse.Namespace, collections.UserDict, collections.UserList)
_MAX_DEPTH = 60
_MAX_REPR_CHARACTERS = 20_000


class CodeDescriber:
    """Describes objects that belong together; an object that was already described is only referenced.

    Attributes:
        module_names: Names of the modules that were visited.
    """

    def __init__(self) -> None:
        self.module_names: set[str] = set()
        self._described_ids: dict[int, int] = {}
        self._kept_objects: list[Any] = []  # ids stay unique only while their objects live
        self._depth = 0
        self._assigned_globals: dict[int, set[str]] = {}

    def describe_value(self, value: Any) -> str:
        """Describe a value's type and content, without memory addresses; the same in every process."""
        if isinstance(value, _SIMPLE_TYPES):
            return f"{type(value).__name__} {value!r}"
        if id(value) in self._described_ids:
            return f"object {self._described_ids[id(value)]}"
        if self._depth >= _MAX_DEPTH:
            return "deeper"
        self._described_ids[id(value)] = len(self._described_ids)
        self._kept_objects.append(value)
        self._depth += 1
        try:
            return self._describe_contents(value)
        finally:
            self._depth -= 1

    def describe_attributes(self, module: nn.Module) -> str:
        """Describe a module's content besides tensors and sub-modules: settings, hooks, own methods."""
        if type(module).__module__.startswith("torch._dynamo"):
            return ""  # the compiler's own state; what it compiles is a module within
        state = {key: value for key, value in vars(module).items() if key not in _find_standard_attributes()}
        state.pop(CODE_RECORD_ATTRIBUTE, None)
        state |= {
            key: list(vars(module).get(key, {}).values()) for key in _HOOK_ATTRIBUTES if vars(module).get(key)
        }
        return "; ".join(f"{key}={self.describe_value(value)}" for key, value in sorted(state.items()))

    def describe_module(self, module: nn.Module) -> str:
        """Describe a module with everything in it."""
        parts = []
        for name, part in module.named_modules():
            kind = self.describe_value(type(part))
            parts.append(f"{name}: {kind} ({self.describe_attributes(part)}){describe_program(part)}")
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        parts += [f"{name}: {describe_tensor(value)}" for name, value in sorted(tensors.items())]
        return "\n".join(parts)

    def _describe_contents(self, value: Any) -> str:
        try:
            for kinds, write in _DESCRIBERS_BY_TYPE:
                if isinstance(value, kinds):
                    return write(self, value)
            return self._describe_object(value)
        except Exception as error:  # noqa: BLE001 - any object of the user's may raise anything when looked at
            return f"{_format_qualified_name(type(value))} raises {type(error).__name__}"

    def _describe_class(self, value: type) -> str:
        self.module_names.add(value.__module__)
        parts = [_format_qualified_name(value)]
        for kind in value.__mro__[:-1]:
            self.module_names.add(kind.__module__)
            own = is_user_module(kind.__module__)
            parts += [
                f"{name}: {self.describe_value(part)}"
                for name, part in sorted(vars(kind).items())
                if (own and name not in _IGNORED_CLASS_ATTRIBUTES) or _is_user_patch(part, kind)
            ]
        return "class " + "\n ".join(parts)

    def _describe_function(self, value: types.FunctionType) -> str:
        self.module_names.add(value.__module__ or "")
        compiled = getattr(value, "_torchdynamo_orig_callable", None)
        if compiled is not None:
            return self.describe_value(compiled)
        if not _is_user_function(value):
            return f"function {_format_qualified_name(value)}"
        cells = [_read_cell(cell) for cell in value.__closure__ or ()]
        parts = (value.__defaults__, value.__kwdefaults__, cells)
        described = [
            describe_code(value.__code__),
            *(self.describe_value(part) for part in parts),
            self._describe_globals(value),
        ]
        attributes = {name: part for name, part in vars(value).items() if name != CODE_RECORD_ATTRIBUTE}
        described += [self.describe_value(attributes)] if attributes else []
        return f"function {_format_qualified_name(value)} " + "\n ".join(described)

    def _describe_globals(self, function: types.FunctionType) -> str:
        """Describe the values of global names that a function reads and none writes."""
        known = function.__globals__
        names = set(_iterate_used_names(function.__code__))
        constant = sorted(names & known.keys() - self._find_assigned_globals(known) - {"__file__"})
        parts = []
        for name in constant:
            value = _make_path_relative(known[name], known.get("__file__"))
            if isinstance(value, types.ModuleType):
                parts.append(self._describe_used_values(value, names))
            else:
                parts.append(f"{name}={self.describe_value(value)}")
        return "; ".join(filter(None, parts))

    def _find_assigned_globals(self, known: Mapping[str, Any]) -> set[str]:
        """Find global names that a module's functions assign: counters and caches, not constants."""
        if id(known) not in self._assigned_globals:
            parts = [part for value in list(known.values()) for part in _iterate_functions(value)]
            own = [part.__code__ for part in parts if part.__globals__ is known]
            self._assigned_globals[id(known)] = set().union(*map(_find_stored_globals, own))
        return self._assigned_globals[id(known)]

    def _describe_used_values(self, module: types.ModuleType, names: set[str]) -> str:
        """Describe a user's module by the values that are read from it."""
        self.module_names.add(module.__name__)
        if not is_user_module(module.__name__):
            return ""
        values = vars(module)
        return "; ".join(
            f"{module.__name__}.{name}={self.describe_value(values[name])}"
            for name in sorted(names & values.keys())
            if isinstance(values[name], (*_SIMPLE_TYPES, Tensor, types.FunctionType, type, tuple, list, dict))
        )

    def _describe_method(self, value: types.MethodType) -> str:
        return f"method {self.describe_value(value.__func__)} of {self.describe_value(value.__self__)}"

    def _describe_partial(self, value: functools.partial[Any]) -> str:
        return f"partial {self.describe_value((value.func, value.args, value.keywords))}"

    def _describe_descriptor(self, value: Any) -> str:
        parts = (getattr(value, name, None) for name in ("fget", "fset", "func", "__func__"))
        return f"{type(value).__name__} {[self.describe_value(part) for part in parts if part is not None]}"

    def _describe_sequence(self, value: Iterable[Any]) -> str:
        return f"{type(value).__name__} [{', '.join(self.describe_value(part) for part in value)}]"

    def _describe_set(self, value: Iterable[Any]) -> str:
        return f"set {sorted(self.describe_value(part) for part in value)}"

    def _describe_mapping(self, value: Mapping[Any, Any]) -> str:
        pairs = sorted(
            (self.describe_value(key), self.describe_value(part)) for key, part in _sort_items(value)
        )
        return f"{type(value).__name__} {pairs}"

    def _describe_array(self, value: np.ndarray[Any, Any]) -> str:
        if value.dtype.hasobject:
            return f"array {value.shape} {self.describe_value(value.tolist())}"
        return f"array {value.shape} {value.dtype} {hashlib.sha256(value.tobytes()).hexdigest()}"

    def _describe_python_module(self, value: types.ModuleType) -> str:
        self.module_names.add(value.__name__)
        return f"module {remove_addresses(value.__name__)}"

    def _describe_script_object(self, value: torch.ScriptObject) -> str:
        """Describe an object of TorchScript by its state, such as the packed weights of a quantized layer."""
        kind, state = value._type().qualified_name(), self.describe_value(value.__getstate__())  # noqa: SLF001
        return _TORCHSCRIPT_MANGLING.sub("", f"{kind} {state}")

    def _describe_object(self, value: Any) -> str:
        """Describe any other object: a user's own, or a plain container, by its content."""
        kind = type(value)
        if not is_user_module(kind.__module__):
            self.module_names.add(kind.__module__)
            if not (isinstance(value, _HOLDER_TYPES) or dataclasses.is_dataclass(kind)):
                return f"{_format_qualified_name(kind)} {_format_repr(value)}"
        slots = kind.__dict__.get("__slots__", ())
        names = [slots] if isinstance(slots, str) else list(slots)
        state = {name: getattr(value, name, None) for name in names} | dict(getattr(value, "__dict__", {}))
        state.pop(CODE_RECORD_ATTRIBUTE, None)
        attributes = {str(name): part for name, part in state.items()}
        return f"{self.describe_value(kind)} {self.describe_value(attributes)}"


_DESCRIBERS_BY_TYPE: tuple[tuple[Any, Callable[[CodeDescriber, Any], str]], ...] = (
    (Tensor, lambda _, value: describe_tensor(value)),
    (np.ndarray, CodeDescriber._describe_array),  # noqa: SLF001
    (nn.Module, CodeDescriber.describe_module),
    (type, CodeDescriber._describe_class),  # noqa: SLF001
    (types.FunctionType, CodeDescriber._describe_function),  # noqa: SLF001
    (types.MethodType, CodeDescriber._describe_method),  # noqa: SLF001
    (functools.partial, CodeDescriber._describe_partial),  # noqa: SLF001
    ((property, staticmethod, classmethod, functools.cached_property), CodeDescriber._describe_descriptor),  # noqa: SLF001
    (types.ModuleType, CodeDescriber._describe_python_module),  # noqa: SLF001
    (types.CodeType, lambda _, value: describe_code(value)),
    (torch.ScriptObject, CodeDescriber._describe_script_object),  # noqa: SLF001
    (torch.jit.ScriptFunction, lambda _, value: _TORCHSCRIPT_MANGLING.sub("", str(value.code))),
    (type(os.environ), lambda _, _value: "environment"),
    ((set, frozenset), CodeDescriber._describe_set),  # noqa: SLF001
    ((list, tuple), CodeDescriber._describe_sequence),  # noqa: SLF001
    (dict, CodeDescriber._describe_mapping),  # noqa: SLF001
)


def describe_code(code: types.CodeType) -> str:
    """Describe a function's instructions, names and constants, without its file and lines."""
    constants = [_describe_constant(value) for value in code.co_consts]
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    steps = hashlib.sha256(code.co_code).hexdigest()[:32]
    return f"code {steps} {counts} {names} {constants}"


def describe_program(module: nn.Module) -> str:
    """Describe the program of a TorchScript or torch.fx module, which its class does not reveal."""
    if isinstance(module, torch.jit.ScriptModule):
        parts = [_read_script_code, _read_script_settings, _read_script_constants]
    elif isinstance(module, torch.fx.GraphModule):
        parts = [_read_script_code]
    else:
        return ""
    described = []
    for read in parts:
        with suppress(RuntimeError, AttributeError):  # a part without a forward has no code
            described.append(CodeDescriber().describe_value(read(module)))
    return " " + _TORCHSCRIPT_MANGLING.sub("", remove_memory_addresses(" ".join(described)))


def _read_script_code(module: Any) -> str:
    return str(module.code)


def _read_script_settings(module: Any) -> dict[str, Any]:
    """Return the attributes of a TorchScript module besides tensors and parts."""
    names = sorted(module._concrete_type.get_attributes())  # noqa: SLF001 - nothing public names them
    settings = {name: getattr(module, name, None) for name in names}
    return {name: value for name, value in settings.items() if not _is_tensor_or_module(value)}


def _read_script_constants(module: Any) -> dict[str, Any]:
    """Return the constants in a TorchScript module's code, the weights of a frozen one among them."""
    return dict(module.code_with_constants[1].const_mapping)


def _is_tensor_or_module(value: Any) -> bool:
    """Check whether a module's own tensors and parts already cover a value."""
    return isinstance(value, Tensor | nn.Module)


def remove_addresses(text: str) -> str:
    """Remove memory addresses, and the hashes in the names of user modules, from a text."""
    return _USER_MODULE_HASH.sub(r"\1", remove_memory_addresses(text))


@functools.cache
def _find_standard_attributes() -> frozenset[str]:
    return frozenset(vars(nn.Module())) | {"_compiled_call_impl", "call_super_init"}


def _format_qualified_name(value: Any) -> str:
    return remove_addresses(f"{value.__module__}.{value.__qualname__}")


def _describe_constant(value: Any) -> str:
    if isinstance(value, types.CodeType):
        return describe_code(value)
    if isinstance(value, frozenset):  # its order differs between processes
        return f"frozenset {sorted(map(_describe_constant, value))}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_describe_constant, value))})"
    return f"{type(value).__name__} {value!r}"


def _iterate_used_names(code: types.CodeType) -> Iterable[str]:
    """Iterate over global names and attributes that a function and its inner functions read."""
    yield from code.co_names
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            yield from _iterate_used_names(value)


def _iterate_functions(value: Any) -> Iterable[types.FunctionType]:
    """Iterate over a function, or the functions of a class."""
    parts = list(vars(value).values()) if isinstance(value, type) else [value]
    parts = [part.__func__ if isinstance(part, staticmethod | classmethod) else part for part in parts]
    return (part for part in parts if isinstance(part, types.FunctionType))


@functools.lru_cache(maxsize=4096)
def _find_stored_globals(code: types.CodeType) -> frozenset[str]:
    stored = {
        instruction.argval
        for instruction in dis.get_instructions(code)
        if instruction.opname == "STORE_GLOBAL"
    }
    inner = (value for value in code.co_consts if isinstance(value, types.CodeType))
    return frozenset(stored).union(*map(_find_stored_globals, inner))


def _read_cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return "empty cell"


def _is_user_function(function: types.FunctionType) -> bool:
    return is_user_module(function.__module__ or "") or is_user_file(function.__code__.co_filename)


def _is_user_patch(part: Any, kind: type) -> bool:
    """Check whether a user's function was patched into a library class."""
    return (
        isinstance(part, types.FunctionType)
        and not is_user_module(kind.__module__)
        and _is_user_function(part)
    )


def _make_path_relative(value: Any, file: str | None) -> Any:
    """Return a path relative to the folder of the code, because the folder's location decides nothing."""
    if file and isinstance(value, str | PurePath):
        return str(value).replace(os.path.dirname(file), ".")  # noqa: PTH120 - of text
    return value


def _sort_items(value: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    """Return the items in an order that is the same in every process."""
    try:
        return sorted(value.items(), key=lambda pair: str(pair[0]))
    except RuntimeError:
        return list(value.items())


def _format_repr(value: Any) -> str:
    """Return the repr of a library object."""
    try:
        return remove_addresses(repr(value)[:_MAX_REPR_CHARACTERS])
    except Exception:  # noqa: BLE001 - any library may raise anything
        return ""
