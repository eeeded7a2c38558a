"""Data from outside: a function of the user's file, or of an entry point, that returns images and labels."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from robustbench_local.data.collect import ReadOptions
from robustbench_local.data.dataset import Dataset, as_dataset
from robustbench_local.data.labels import resolve_classes
from robustbench_local.data.subsample import SubsampleMethod, choose_images
from robustbench_local.errors import ConfigError, DataError, RobustbenchError
from robustbench_local.extensions.entry_points import ExtensionKind, find_entry_point, load_entry_point
from robustbench_local.extensions.python_reference import is_python_reference, load_python_object

DATA_GROUP: ExtensionKind = "data"
"""Group of the entry points, and what a part of an identity is called after."""


BUILT_IN_KINDS = frozenset({"folder", "npz", "signs", "torchvision"})
"""How our own sources begin: no entry point can take their place."""


def is_outside_data(source: str) -> bool:
    """Whether a source is a file of the user's own, or an entry point: ``NAME`` or ``NAME:REST``."""
    kind = source.partition(":")[0]
    if kind in BUILT_IN_KINDS:
        return False
    return is_python_reference(source) or find_entry_point(DATA_GROUP, kind) is not None


def load_data_function(source: str) -> Callable[..., Any]:
    """What makes the data.

    Args:
        source: ``python:FILE.py:NAME``, or an entry point.

    Raises:
        ConfigError: If it cannot be imported, or is no function.
        RefusedError: If it is a file that may not run.
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
    limit: int | None,
    choose: SubsampleMethod,
    seed: int,
    classes: Sequence[int | str] | None,
    options: ReadOptions,
) -> Dataset:
    """Images and labels that a function from outside returns, checked, and as many of them as are wanted.

    The function is called with those of ``split``, ``seed`` and ``reference`` (what stands behind the name of
    an entry point) that it takes, and returns a :class:`Dataset` or a pair (images, labels).

    Args:
        source: ``python:FILE.py:NAME``, or an entry point.
        split: Which part of the data is wanted.
        limit: Most images.
        choose: How they are chosen.
        seed: Of the choice, and for the function.
        classes: Use only images of these classes, by name or index.
        options: How files would be read: the function decides that itself, so that there is nothing to say.

    Raises:
        ConfigError: If the function cannot be had, or an option is for files.
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
    ids, labels = [data.ids[row] for row in positions], data.labels[positions].tolist()
    chosen = choose_images(ids, labels, limit=limit, seed=seed, choose=choose)
    return data.select_images([positions[row] for row in chosen])


def _call_function(function: Callable[..., Any], source: str, arguments: Mapping[str, Any]) -> Dataset:
    try:
        known = inspect.signature(function).parameters
        made = function(**{name: value for name, value in arguments.items() if name in known})
    except RobustbenchError:
        raise
    except (Exception, SystemExit) as error:
        what = f"raised {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise DataError(what, where=source) from error
    if not isinstance(made, Dataset) and not (isinstance(made, tuple) and len(made) == 2):
        what = f"returned a {type(made).__name__}, not a Dataset or a pair (images, labels)"
        raise DataError(what, where=source)
    data = as_dataset(made, name=source)
    return data if data.name else replace(data, name=source)


def _is_changed(options: ReadOptions, name: str) -> bool:
    return name != "count_unread" and getattr(options, name) != getattr(ReadOptions(), name)
