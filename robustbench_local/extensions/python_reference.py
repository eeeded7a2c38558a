"""``python:FILE.py:NAME``: an object in the user's own file, which runs only if the user allows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustbench_local.classifier.model_identity import record_code
from robustbench_local.classifier.user_modules import find_module_files
from robustbench_local.config.file_lookup import find_file
from robustbench_local.errors import ConfigError, ModelError, RefusedError, did_you_mean
from robustbench_local.extensions.code_permission import get_code_permission
from robustbench_local.extensions.user_import import (
    allow_late_imports,
    import_file,
    importable_neighbours,
)

PYTHON_PREFIX = "python:"
"""Prefix of a reference to a user's own file."""


@dataclass(frozen=True)
class _LoadedObject:
    value: Any
    module_name: str
    files: dict[str, str]


_loaded_objects: dict[tuple[Path, str], _LoadedObject] = {}
"""Objects loaded in this process, so that equal references give the same class."""


def is_python_reference(name: str) -> bool:
    """Return True if a name starts like ``python:FILE.py:NAME``, valid or not."""
    return name.startswith(PYTHON_PREFIX)


def format_reference_title(name: str) -> str:
    """Return a short form of a reference for tables, ``NAME (FILE.py)``; empty for other names."""
    file, _, attribute = name.removeprefix(PYTHON_PREFIX).rpartition(":")
    return f"{attribute} ({Path(file).name})" if is_python_reference(name) and file else ""


def load_python_object(name: str) -> Any:
    """Load the object ``NAME`` of a user's file; the file runs once, and again after a change.

    Args:
        name: ``python:FILE.py:NAME``.

    Raises:
        ConfigError: If the reference is malformed, there is no such file or name, or the file raises.
        RefusedError: Unless code is allowed, see :func:`permit_code`.
    """
    file, _, attribute = name.removeprefix(PYTHON_PREFIX).rpartition(":")
    if not file or not attribute.isidentifier():
        raise ConfigError(f"cannot read {name!r}", remedy="write python:FILE.py:NAME")
    permission = get_code_permission()
    if not permission.is_allowed:
        remedy = "read it, then allow it with --allow-code (allow_code=True)"
        raise RefusedError(f"{file} would be run as code", where=name, remedy=remedy)
    try:
        path = find_file(file, permission.base_folder)
        return _load_object(path, attribute, name)
    except ModelError as problem:  # errors about an attack's or a defense's file are not model errors
        raise ConfigError(problem.what, where=name, remedy=problem.remedy) from problem


def _load_object(path: Path, attribute: str, name: str) -> Any:
    key = path.resolve(), attribute
    known = _loaded_objects.get(key)
    if known is not None and find_module_files([known.module_name])[0] == known.files:
        return known.value
    with importable_neighbours(path) as neighbours:
        module = import_file(path)
    value = getattr(module, attribute, None)
    if value is None:
        names = [entry for entry, member in vars(module).items() if callable(member)]
        raise ConfigError(
            f"{path.name} has no {attribute!r}", where=name, remedy=did_you_mean(attribute, names)
        )
    allow_late_imports(path, record_code(value, {module.__name__, *neighbours}))
    files, _ = find_module_files([module.__name__])
    _loaded_objects[key] = _LoadedObject(value, module.__name__, files)
    return value
