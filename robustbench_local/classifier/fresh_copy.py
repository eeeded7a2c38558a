"""Fresh copies of a model, in its state before any query.

A model that remembers its queries answers an attack differently from anybody else. Candidates are therefore
verified on a copy that has seen neither the clean images nor the search. Copies share the parameters;
buffers, attributes and the state that the model's code keeps outside of the model are their own.
"""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_local.classifier.foreign_errors import extract_first_line
from robustbench_local.classifier.hidden_state import (
    ExternalValue,
    describe_state,
    find_external_values,
    read_external_value,
)

MAX_COPIED_BYTES = 64 << 20
"""Size above which the value of a global or closure is not copied: it is data rather than state."""
_ATOMIC_TYPES = frozenset({int, float, bool, str, type(None)})


class OriginalState:
    """The state of a model at construction; `open_copy` makes any number of copies of it.

    Args:
        model: A module, or any other callable; neither changed nor queried.

    Attributes:
        problem: Why there are no copies, in words that follow "cannot be copied"; None if there are.
        uncopied_attributes: Paths of attributes, such as locks and open files, that copies share with the
            model.
        external_values: Names outside the model in which its code may keep state.
    """

    def __init__(self, model: Any) -> None:
        self.problem: str | None = None
        self.uncopied_attributes: set[str] = set()
        self.external_values = find_external_values(model)
        self._shared = (
            {id(parameter): parameter for parameter in model.parameters()}
            if isinstance(model, nn.Module)
            else {}
        )
        self._known_description = self._describe_model(model)
        self._copied_values: list[ExternalValue] = []
        self._template: tuple[Any, list[Any]] = (None, [])
        if is_own_adapter(model):
            self.problem = ""
            return
        if any(type(part).__name__ == "OptimizedModule" for part in _iterate_modules(model)):
            self.problem = "it is compiled"
            return
        try:
            twin = self._copy_object(model)
        except Exception as error:  # noqa: BLE001 - a foreign class may raise anything
            self.problem = f"{type(error).__name__}: {extract_first_line(error, 80)}"
            return
        self._copied_values = [value for value in self.external_values if self._is_copyable(value)]
        if twin is model and not self._copied_values:
            self.problem = "it is a function"
            return
        # copied together, so that an object that is shared inside and outside stays shared
        self._template = self._copy_object((model, [_read_value(value) for value in self._copied_values]))

    def is_unchanged(self, model: Any) -> bool:
        """Check that a model is in its original state or as an evaluation left it."""
        return self._known_description == self._describe_model(model)

    def record_state(self, model: Any) -> None:
        """Record the state in which an evaluation leaves a model."""
        self._known_description = self._describe_model(model)

    @contextmanager
    def open_copy(self) -> Iterator[Any]:
        """Open a copy of the model; while it is open, names outside of the model have their old values.

        Yields:
            The copy; None if there is none.
        """
        if self.problem is not None:
            yield None
            return
        twin, values = self._copy_object(self._template)
        with ExitStack() as stack:
            for external_value, value in zip(self._copied_values, values, strict=True):
                stack.callback(external_value.write, _read_value(external_value))
                external_value.write(value)
            yield twin

    def _describe_model(self, model: Any) -> dict[str, str]:
        """Everything but the values of the parameters, which all copies share."""
        shared = {name: f"parameter {id(parameter)}" for name, parameter in _iterate_parameters(model)}
        return shared | describe_state(model, self.external_values, parameters=False)

    def _copy_object(self, value: Any) -> Any:
        # TorchScript copies parameters by an operation, after which they are no leaves
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # about deprecated classes, which do not concern the user
            memo: dict[int, Any] = dict(self._shared)
            model = value[0] if isinstance(value, tuple) else value
            if isinstance(model, nn.Module):
                self.uncopied_attributes |= _copy_modules(model, memo)
            return copy.deepcopy(value, memo)

    def _is_copyable(self, external_value: ExternalValue) -> bool:
        value = _read_value(external_value)
        if _count_bytes(value) > MAX_COPIED_BYTES:
            return False
        try:
            self._copy_object(value)
        except Exception:  # noqa: BLE001 - a foreign class may raise anything
            return False
        return True


class FreshCopies:
    """Copies of a model in its state before an evaluation used it, or since outside code last changed it."""

    def __init__(self) -> None:
        self._original: OriginalState | None = None

    @property
    def uncopied_attributes(self) -> frozenset[str]:
        """Paths of the model's attributes that cannot be copied and that copies share with it."""
        return frozenset(self._original.uncopied_attributes if self._original is not None else ())

    def remember_model(self, model: Any) -> None:
        """Remember a model as it is, unless that was done and only evaluations have used it since."""
        if self._original is None or not self._original.is_unchanged(model):
            self._original = OriginalState(model)

    def record_state(self, model: Any) -> None:
        """Take note of how an evaluation leaves the model."""
        if self._original is not None:
            self._original.record_state(model)

    @contextmanager
    def open_copy(self, note: Callable[[str], None]) -> Iterator[Any]:
        """Open a copy of the model, see `OriginalState.open_copy`.

        Args:
            note: Receives the reason if there is none.

        Yields:
            The copy; None if there is none.
        """
        if self._original is None:
            yield None
            return
        with self._original.open_copy() as model:
            if self._original.problem:
                problem = f"its model cannot be copied ({self._original.problem})"
                note(f"{problem}: candidates are judged by the model that was attacked")
            yield model


def _copy_modules(model: nn.Module, memo: dict[int, Any]) -> set[str]:
    """Copy all parts of a model into a deepcopy memo, five times as fast as deepcopy.

    A model with a part that defines its own copying is left to deepcopy.

    Returns:
        Paths of the attributes that cannot be copied, and are shared.
    """
    parts: dict[str, nn.Module] = dict(model.named_modules())
    shared: set[str] = set()
    if any(not _is_copied_plainly(type(part)) for part in parts.values()):
        return shared
    twins = {name: part.__class__.__new__(part.__class__) for name, part in parts.items()}
    memo |= {id(part): twins[name] for name, part in parts.items()}
    for name, part in parts.items():
        for key, value in vars(part).items():
            try:
                vars(twins[name])[key] = _copy_value(value, memo)
            except Exception:  # noqa: BLE001 - a foreign class may raise anything
                vars(twins[name])[key] = value
                shared.add(f"{name}.{key}" if name else key)
    return shared


def _copy_value(value: Any, memo: dict[int, Any]) -> Any:
    """Return a copy of an attribute's value."""
    kind = type(value)
    if isinstance(value, Tensor) and not value.is_leaf:  # which deepcopy refuses
        memo[id(value)] = value.detach().clone()
    if kind in _ATOMIC_TYPES or (kind is tuple and all(type(entry) in _ATOMIC_TYPES for entry in value)):
        return value
    return kind() if kind in (dict, OrderedDict) and not value else copy.deepcopy(value, memo)


def _is_copied_plainly(kind: type) -> bool:
    """Check whether a part consists of its attributes alone; torch's layers only support old pickles."""
    if issubclass(kind, nn.RNNBase) or hasattr(kind, "__deepcopy__"):
        return False
    ways = (kind.__setstate__, kind.__reduce_ex__, getattr(kind, "__getstate__", None))  # type: ignore[attr-defined]
    return all(method is None or _is_torch_method(method) for method in ways)


def _is_torch_method(method: Any) -> bool:
    module_name = getattr(method, "__module__", None)  # None for methods inherited from object
    return module_name is None or module_name.startswith(("torch.nn.modules.", "torch._dynamo."))


def _read_value(external_value: ExternalValue) -> Any:
    return None if external_value.is_cache else read_external_value(external_value)


def is_own_adapter(model: Any) -> bool:
    """Check for this package's own adapters of something without state here: a service, a file's session."""
    return not isinstance(model, nn.Module) and type(model).__module__.startswith("robustbench_local.")


def _iterate_modules(model: Any) -> Iterator[nn.Module]:
    return model.modules() if isinstance(model, nn.Module) else iter(())


def _iterate_parameters(model: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(model, nn.Module):
        yield from model.named_parameters(remove_duplicate=False)


def _count_bytes(value: Any, depth: int = 4) -> int:
    """Count the bytes of the tensors and arrays in a value, without parameters."""
    if isinstance(value, nn.Module):
        return sum(buffer.nbytes for buffer in value.buffers())
    if isinstance(value, Tensor | np.ndarray):
        return int(value.nbytes)
    if depth and isinstance(value, dict | list | tuple | set):
        entries = value.values() if isinstance(value, dict) else value
        return sum(_count_bytes(entry, depth - 1) for entry in entries)
    return 0
