"""External data: a function in the user's file, or in an entry point, that returns images and labels."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from robustbench_local.config.class_lookup import resolve_classes
from robustbench_local.data.collect import ReadOptions
from robustbench_local.data.dataset import Dataset, as_dataset
from robustbench_local.errors import ConfigError, DataError, RobustbenchError
from robustbench_local.extensions.entry_points import ExtensionKind, find_entry_point, load_entry_point
from robustbench_local.extensions.python_reference import is_python_reference, load_python_object

DATA_GROUP: ExtensionKind = "data"
"""Group of the entry points, and prefix of the data's parts in an identity."""


BUILT_IN_KINDS = frozenset({"folder", "npz", "signs", "torchvision"})
"""Prefixes of the built-in sources, which no entry point can replace."""


def is_outside_data(source: str) -> bool:
    """Return True if a source is a user's file or an entry point: ``NAME`` or ``NAME:REST``."""
    kind = source.partition(":")[0]
    if kind in BUILT_IN_KINDS:
        return False
    return is_python_reference(source) or find_entry_point(DATA_GROUP, kind) is not None


def load_data_function(source: str) -> Callable[..., Any]:
    """Load the function that builds the data.

    Args:
        source: ``python:FILE.py:NAME``, or an entry point.

    Raises:
        ConfigError: If it cannot be imported, or is not a function.
        RefusedError: If it is a file that is not allowed to run.
    """
    if is_python_reference(source):
        function = load_python_object(source)
    else:
        record = find_entry_point(DATA_GROUP, source.partition(":")[0])
        function = None if record is None else load_entry_point(record)
    if not callable(function):
        what = f"is a {type(function).__name__}, not a function that returns images and labels"
        raise ConfigError(what, where=source)
    return function  # type: ignore[no-any-return]


def load_outside_data(
    source: str,
    *,
    split: str,
    seed: int,
    classes: Sequence[int | str] | None,
    options: ReadOptions,
) -> Dataset:
    """Load images and labels from an external function, validate them, and select the requested classes.

    The function is called with those of ``split``, ``seed`` and ``reference`` (the part of the source behind
    the entry point's name) that it takes, and returns a :class:`Dataset` or a pair (images, labels).

    Args:
        source: ``python:FILE.py:NAME``, or an entry point.
        split: The requested part of the data.
        seed: Seed of the function.
        classes: Use only images of these classes, by name or index.
        options: Options for image files, which must have their defaults, because the function decides them.

    Raises:
        ConfigError: If the function cannot be loaded, or an option for files is set.
        DataError: If it raises, or returns something else.
    """
    function = load_data_function(source)
    if set_options := [field.name for field in fields(options) if _is_changed(options, field.name)]:
        remedy = f"leave {set_options[0]} out: the function decides it"
        raise ConfigError(f"{set_options[0]} is for image files", where=source, remedy=remedy)
    reference = "" if is_python_reference(source) else source.partition(":")[2]
    data = _call_function(function, source, {"split": split, "seed": seed, "reference": reference})
    positions = list(range(len(data)))
    if classes is not None:
        wanted = set(resolve_classes(classes, data.class_names))
        positions = [row for row, label in enumerate(data.labels.tolist()) if label in wanted]
        if not positions:
            raise DataError(f"there are no images of the classes {list(classes)}", where=source)
    return data.select_images(positions)


def _call_function(function: Callable[..., Any], source: str, arguments: Mapping[str, Any]) -> Dataset:
    try:
        known = inspect.signature(function).parameters
        result = function(**{name: value for name, value in arguments.items() if name in known})
    except RobustbenchError:
        raise
    except (Exception, SystemExit) as error:
        what = f"raised {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise DataError(what, where=source) from error
    if not isinstance(result, Dataset) and not (isinstance(result, tuple) and len(result) == 2):
        what = f"returned a {type(result).__name__}, not a Dataset or a pair (images, labels)"
        raise DataError(what, where=source)
    data = as_dataset(result, name=source)
    return data if data.name else replace(data, name=source)


def _is_changed(options: ReadOptions, name: str) -> bool:
    return name != "count_unread" and getattr(options, name) != getattr(ReadOptions(), name)
