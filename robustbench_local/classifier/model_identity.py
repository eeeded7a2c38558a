"""The identity of a model: everything that decides its answers, in named parts, each a digest or a version.

This is the only notion of identity. It decides whether a run may be resumed, whether cached weights are those
of a training, and whether a checkpoint belongs to it.

The identity covers weights, buffers and settings of every module, its hooks, the user's classes, functions
and closures as they are in memory, the whole files of all modules that the user's file imports, and the
versions of the numerical libraries. It does not cover data files beside the code, modules imported under a
name computed at run time, or services.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn

from robustbench_local.classifier.code_identity import (
    CODE_RECORD_ATTRIBUTE,
    CodeDescriber,
    describe_program,
    remove_addresses,
)
from robustbench_local.classifier.tensor_identity import describe_tensor
from robustbench_local.classifier.user_modules import (
    find_library_version,
    find_module_files,
    is_user_module,
    select_computing_libraries,
)


def describe_model(model: Any) -> dict[str, str]:
    """Return the parts of a model's identity: ``"weights"``, ``"code file mynet.py"``, ...

    Args:
        model: A module or callable. A callable that represents something elsewhere, such as a file or a
            service, has an attribute ``identity``, a text with everything that decides its answers.
    """
    describer = CodeDescriber()
    parts = _describe_module(model, describer) if isinstance(model, nn.Module) else {}
    if not parts:
        parts = {"code": _hash_text(_describe_callable(model, describer))}
    files, libraries = _read_code_record(model)
    if not files:
        own = sorted(name for name in describer.module_names if is_user_module(name))
        files, named = find_module_files(own)
        libraries = select_computing_libraries([*named, *describer.module_names])
    libraries |= select_computing_libraries(describer.module_names) | {
        "torch",
        *getattr(model, "libraries", ()),
    }
    parts |= {f"code file {name}": digest for name, digest in files.items()}
    parts |= {f"version of {name}": find_library_version(name) for name in sorted(libraries)}
    if any(is_user_module(name) for name in describer.module_names):
        parts["version of Python"] = ".".join(platform.python_version_tuple()[:2])  # its instructions differ
    return parts


def digest_parts(parts: dict[str, str]) -> str:
    """Return the SHA-256, hexadecimal, over all parts of an identity."""
    return _hash_text("\n".join(f"{name}: {value}" for name, value in sorted(parts.items())))


def digest_network(parts: dict[str, str]) -> str:
    """Return the digest over all parts but the weights: networks that share it compute the same operations.

    Args:
        parts: The parts of an identity.

    Returns:
        Hexadecimal; empty for a model without weights of its own, such as a service.
    """
    if "weights" not in parts:
        return ""
    return digest_parts({name: value for name, value in parts.items() if name != "weights"})


def record_code(model: Any, names: Iterable[str]) -> frozenset[str]:
    """Record on a model the files of its code, while they are those that ran.

    Args:
        model: The result of a user's file; everything that contains it has these files in its identity.
        names: Dotted names of the modules that were imported for it.

    Returns:
        Names of all modules that these files import, anywhere in them.
    """
    files, named = find_module_files(names)
    owner = getattr(model, "__self__", model)
    state = getattr(getattr(owner, "__func__", owner), "__dict__", None)
    if isinstance(state, dict):
        state[CODE_RECORD_ATTRIBUTE] = (files, sorted(select_computing_libraries([*named, *names])))
    return named


def _describe_module(model: nn.Module, describer: CodeDescriber) -> dict[str, str]:
    modules = dict(model.named_modules())
    kinds = [f"{name} {type(part).__module__}.{type(part).__qualname__}" for name, part in modules.items()]
    classes = list(dict.fromkeys(type(part) for part in modules.values()))
    code = [describer.describe_value(kind) for kind in classes]
    code += [f"{name}{program}" for name, part in modules.items() if (program := describe_program(part))]
    code += [_describe_library_source(kind.__module__) for kind in classes]
    attributes = [f"{name} {describer.describe_attributes(part)}" for name, part in modules.items()]
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    weights = [f"{name} {describe_tensor(value)}" for name, value in sorted(tensors.items())]
    return {
        "layers": _hash_text(remove_addresses("\n".join([_format_layers(model), *kinds]))),
        "code": _hash_text("\n".join(code)),
        "settings": _hash_text("\n".join(attributes)),
        "weights": _hash_text("\n".join(weights)),
    }


def _format_layers(model: nn.Module) -> str:
    """Return a model's own text of its layers; their kinds and settings are described in any case."""
    try:
        return repr(model)
    except Exception as error:  # noqa: BLE001 - a foreign class may raise anything
        return f"raises {type(error).__name__}"


def _describe_callable(model: Any, describer: CodeDescriber) -> str:
    identity = getattr(model, "identity", None)
    if isinstance(identity, str) and not is_user_module(type(model).__module__):
        return f"{type(model).__module__}.{type(model).__qualname__} {identity}"
    return f"{identity if isinstance(identity, str) else ''} {describer.describe_value(model)}"


def _read_code_record(model: Any) -> tuple[dict[str, str], frozenset[str]]:
    """Return the files and libraries recorded on a model or on anything within it."""
    owner = getattr(model, "__self__", model)
    owner = getattr(owner, "__func__", owner)
    files: dict[str, str] = {}
    libraries: frozenset[str] = frozenset()
    for part in owner.modules() if isinstance(owner, nn.Module) else [owner]:
        record = getattr(part, "__dict__", {}).get(CODE_RECORD_ATTRIBUTE)
        if record:
            files, libraries = files | record[0], libraries | set(record[1])
    return files, libraries


def _describe_library_source(name: str) -> str:
    """Describe the source of a class from a library other than torch, whose files may have been edited."""
    if is_user_module(name) or name.partition(".")[0] in ("torch", "builtins", "robustbench_local"):
        return ""
    file = getattr(sys.modules.get(name), "__file__", None)
    return f"{name} {_digest_file(file)}" if file else ""


@lru_cache(maxsize=1024)
def _digest_file(file: str) -> str:
    path = Path(file)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
