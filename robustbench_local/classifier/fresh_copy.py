"""Fresh copies of a model: as it was before it was asked anything.

A model that remembers what it was asked answers an attack differently than anybody else. So candidates are
judged by a copy that has seen neither the clean images nor the search. Copies share the parameters; buffers,
attributes and what the model's code keeps outside of it are their own.
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

from robustbench_local.classifier.foreign_errors import first_line
from robustbench_local.classifier.hidden_state import ExternalValue, describe_state, find_places, read_place

MOST_BYTES = 64 << 20
"""Size of a global or closure's value from which on it is not copied: rather data than a memory."""
_ATOMS = frozenset({int, float, bool, str, type(None)})


class OriginalState:
    """What a model was when this was made; `copied` gives as many copies of that as are wanted.

    Args:
        model: A module, or any other callable; not changed, and asked nothing.

    Attributes:
        problem: Why there are no copies, in words that follow "cannot be copied"; None if there are.
        uncopied: Paths of the attributes, such as locks and open files, that copies share with the model.
        places: Where the model's code may keep state outside of it.
    """

    def __init__(self, model: Any) -> None:
        self.problem: str | None = None
        self.uncopied: set[str] = set()
        self.places = find_places(model)
        self._shared = {id(one): one for one in model.parameters()} if isinstance(model, nn.Module) else {}
        self._known = self._described(model)
        self._kept: list[ExternalValue] = []
        self._template: tuple[Any, list[Any]] = (None, [])
        if is_own_adapter(model):
            self.problem = ""
            return
        if any(type(part).__name__ == "OptimizedModule" for part in _modules(model)):
            self.problem = "it is compiled"
            return
        try:
            twin = self._duplicate(model)
        except Exception as error:  # noqa: BLE001 - somebody else's class may raise anything
            self.problem = f"{type(error).__name__}: {first_line(error, 80)}"
            return
        self._kept = [place for place in self.places if self._can_be_kept(place)]
        if twin is model and not self._kept:
            self.problem = "it is a function"
            return
        # together, so that what is one object inside and outside stays one
        self._template = self._duplicate((model, [_content(place) for place in self._kept]))

    def describes(self, model: Any) -> bool:
        """Whether a model is as it was, or as an evaluation left it: nobody else has changed it since."""
        return self._known == self._described(model)

    def leave(self, model: Any) -> None:
        """Take note of how an evaluation leaves a model."""
        self._known = self._described(model)

    @contextmanager
    def copied(self) -> Iterator[Any]:
        """A copy of the model; as long as this is open, names outside of the model have their old values.

        Yields:
            The copy; None if there is none.
        """
        if self.problem is not None:
            yield None
            return
        twin, values = self._duplicate(self._template)
        with ExitStack() as stack:
            for place, value in zip(self._kept, values, strict=True):
                stack.callback(place.write, _content(place))
                place.write(value)
            yield twin

    def _described(self, model: Any) -> dict[str, str]:
        """Everything but the values of the parameters, which all copies share."""
        shared = {name: f"parameter {id(one)}" for name, one in _named_parameters(model)}
        return shared | describe_state(model, self.places, parameters=False)

    def _duplicate(self, value: Any) -> Any:
        # TorchScript copies parameters by an operation, of which they would not be leaves
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of classes that are out of fashion: not the reader's matter
            memo: dict[int, Any] = dict(self._shared)
            model = value[0] if isinstance(value, tuple) else value
            if isinstance(model, nn.Module):
                self.uncopied |= _copy_modules(model, memo)
            return copy.deepcopy(value, memo)

    def _can_be_kept(self, place: ExternalValue) -> bool:
        value = _content(place)
        if _size(value) > MOST_BYTES:
            return False
        try:
            self._duplicate(value)
        except Exception:  # noqa: BLE001 - somebody else's class may raise anything
            return False
        return True


class FreshCopies:
    """Copies of one model as it was before an evaluation used it, or since somebody else changed it."""

    def __init__(self) -> None:
        self._original: OriginalState | None = None

    @property
    def uncopied(self) -> frozenset[str]:
        """Paths of the model's attributes that copies share with it, because nobody can copy them."""
        return frozenset(self._original.uncopied if self._original is not None else ())

    def keep(self, model: Any) -> None:
        """Remember a model as it is, unless that was done and only evaluations have used it since."""
        if self._original is None or not self._original.describes(model):
            self._original = OriginalState(model)

    def leave(self, model: Any) -> None:
        """Take note of how an evaluation leaves the model."""
        if self._original is not None:
            self._original.leave(model)

    @contextmanager
    def open(self, note: Callable[[str], None]) -> Iterator[Any]:
        """A copy of the model, see `OriginalState.copied`.

        Args:
            note: Told why there is none.

        Yields:
            The copy; None if there is none.
        """
        if self._original is None:
            yield None
            return
        with self._original.copied() as model:
            if self._original.problem:
                problem = f"its model cannot be copied ({self._original.problem})"
                note(f"{problem}: candidates are judged by the model that was attacked")
            yield model


def _copy_modules(model: nn.Module, memo: dict[int, Any]) -> set[str]:
    """Put copies of all parts of a model into a memo of deepcopy's: five times as fast as it does it.

    A model of which a part has a way of its own of being copied is left to that way.

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
            except Exception:  # noqa: BLE001 - somebody else's class may raise anything
                vars(twins[name])[key] = value
                shared.add(f"{name}.{key}" if name else key)
    return shared


def _copy_value(value: Any, memo: dict[int, Any]) -> Any:
    """A copy of an attribute's value."""
    kind = type(value)
    if isinstance(value, Tensor) and not value.is_leaf:  # which deepcopy refuses
        memo[id(value)] = value.detach().clone()
    if kind in _ATOMS or (kind is tuple and all(type(entry) in _ATOMS for entry in value)):
        return value
    return kind() if kind in (dict, OrderedDict) and not value else copy.deepcopy(value, memo)


def _is_copied_plainly(kind: type) -> bool:
    """Whether a part is nothing but its attributes; torch's layers only add what old pickles lack."""
    if issubclass(kind, nn.RNNBase) or hasattr(kind, "__deepcopy__"):
        return False
    ways = (kind.__setstate__, kind.__reduce_ex__, getattr(kind, "__getstate__", None))  # type: ignore[attr-defined]
    return all(way is None or _is_torch(way) for way in ways)


def _is_torch(way: Any) -> bool:
    place = getattr(way, "__module__", None)  # None of what every object has
    return place is None or place.startswith(("torch.nn.modules.", "torch._dynamo."))


def _content(place: ExternalValue) -> Any:
    return None if place.is_cache else read_place(place)


def is_own_adapter(model: Any) -> bool:
    """Whether it is ours and stands for something that keeps no state here: a service, a file's session."""
    return not isinstance(model, nn.Module) and type(model).__module__.startswith("robustbench_local.")


def _modules(model: Any) -> Iterator[nn.Module]:
    return model.modules() if isinstance(model, nn.Module) else iter(())


def _named_parameters(model: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(model, nn.Module):
        yield from model.named_parameters(remove_duplicate=False)


def _size(value: Any, depth: int = 4) -> int:
    """Bytes of the tensors and arrays in a value, parameters aside."""
    if isinstance(value, nn.Module):
        return sum(buffer.nbytes for buffer in value.buffers())
    if isinstance(value, Tensor | np.ndarray):
        return int(value.nbytes)
    if depth and isinstance(value, dict | list | tuple | set):
        entries = value.values() if isinstance(value, dict) else value
        return sum(_size(entry, depth - 1) for entry in entries)
    return 0
