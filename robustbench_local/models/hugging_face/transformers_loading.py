"""Calls of transformers: networks and configurations from a folder, offline, without code of the folder."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from robustbench_local.classifier.foreign_errors import extract_first_line, refuse_shortage
from robustbench_local.errors import (
    ModelError,
    RefusedError,
    RobustbenchError,
)
from robustbench_local.models.extra_libraries import import_extra
from robustbench_local.models.hugging_face.model_folder import (
    CONFIG_FILE,
    PICKLE_FILE,
    PROCESSOR_FILES,
    WEIGHTS_FILE,
    ModelFolder,
)
from robustbench_local.models.loaded_model import ModelRequest
from robustbench_local.models.stored_tensors import shorten_names
from robustbench_local.models.weight_files import read_weights

_OFFLINE: Mapping[str, Any] = {"local_files_only": True, "trust_remote_code": False}
_NARROW_TYPES = {"F16": "float16", "BF16": "bfloat16"}
_LIBRARY_PREFIX = re.compile(r"^\[transformers\]\s*")


def import_transformers() -> Any:
    """Return the library.

    Raises:
        ConfigError: If it is not installed.
    """
    # Its tokenizers have threads, and warn in every fork of a process that used them.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with warnings.catch_warnings(action="ignore"):
        return import_extra("transformers", extra="hf")


@contextmanager
def quiet_transformers(folder: ModelFolder) -> Iterator[Any]:
    """Give the library without its progress bars, logs and warnings; its errors become ones of one line.

    Raises:
        ConfigError: If it is not installed.
        RefusedError: If the model needs code that is in its folder.
        ModelError: If anything else fails inside.
    """
    transformers = import_transformers()
    logs = transformers.utils.logging
    level, had_bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity(logs.CRITICAL)
    logs.disable_progress_bar()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield transformers
    except RobustbenchError:
        raise
    except Exception as error:
        refuse_shortage(error, folder.name)
        raise _explain_failure(folder, error) from error
    finally:
        logs.set_verbosity(level)
        if had_bars:
            logs.enable_progress_bar()


def read_config(transformers: Any, folder: ModelFolder) -> Any:
    """Return the configuration of the network.

    Raises:
        ModelError: If there is none, or it describes an adapter.
        RefusedError: If it needs code of its own.
    """
    content = folder.read_json(CONFIG_FILE)
    if (folder.path / "adapter_config.json").exists():
        raise ModelError(
            "is an adapter to another model", where=folder.name, remedy="merge it, and save the whole model"
        )
    if content is None:
        raise ModelError(
            f"has no {CONFIG_FILE}",
            where=folder.name,
            remedy="name a folder that save_pretrained has written",
        )
    return transformers.AutoConfig.from_pretrained(str(folder.path), **_OFFLINE)


def load_network(
    auto_class: Any, config: Any, folder: ModelFolder, request: ModelRequest
) -> tuple[nn.Module, list[str], dict[str, Any]]:
    """Load a network in float32 and evaluation mode; every parameter has to come from the files.

    Args:
        auto_class: A class of transformers such as ``AutoModelForImageClassification``.
        config: The configuration that `read_config` returned.
        folder: The folder.
        request: The user's options.

    Returns:
        The network, notes, and the names and hashes of the files that it was made of.

    Raises:
        ModelError: If parameters are missing or have another shape, or the file is damaged.
        RefusedError: If the weights are pickled, and not trusted.
    """
    notes = list(folder.notes)
    is_pickled = request.trust_pickle is not None and not (folder.path / WEIGHTS_FILE).exists()
    if is_pickled:
        names = [PICKLE_FILE]
        notes.append(f"{PICKLE_FILE} was unpickled, trusted by its SHA-256")
    else:
        names = folder.list_weights_files()
        notes += _note_narrow_weights(folder, names)
    hashes = folder.hash_files(names)
    folder.check_sha256(hashes, request.sha256)
    with _open_safe_folder(folder, request, is_pickled=is_pickled) as path:
        network, report = auto_class.from_pretrained(
            str(path),
            config=config,
            use_safetensors=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # the report names them, and they are refused
            output_loading_info=True,
            **_OFFLINE,
        )
    notes += _check_report(report, config, folder)
    _remove_locations(network)
    others = folder.hash_files([CONFIG_FILE, *PROCESSOR_FILES])
    provenance: dict[str, Any] = {"weights": ", ".join(names), "sha256": hashes[names[0]]}
    if len(names) > 1:
        provenance["sha256"] = hashes
    if folder.commit is not None:
        provenance["commit"] = folder.commit
    return network.eval(), notes, provenance | {"configuration": others}


@contextmanager
def _open_safe_folder(folder: ModelFolder, request: ModelRequest, *, is_pickled: bool) -> Iterator[Path]:
    """Give the folder itself, or one with a trusted pickle's tensors as safetensors."""
    if not is_pickled:
        yield folder.path
        return
    file = folder.check_file(PICKLE_FILE)
    stored = read_weights(file, sha256=request.sha256, trust_pickle=request.trust_pickle).stored
    with TemporaryDirectory(prefix="rbl-") as name:
        path = Path(name)
        copyfile(folder.check_file(CONFIG_FILE), path / CONFIG_FILE)
        tensors = {key: value.clone().contiguous() for key, value in stored.tensors.items()}
        save_file(tensors, path / WEIGHTS_FILE, {"format": "pt"})
        yield path


def _note_narrow_weights(folder: ModelFolder, names: list[str]) -> list[str]:
    """Note weights that are stored in 16 bits, by the type of the first tensor."""
    try:
        with safe_open(folder.path / names[0], framework="pt") as file:
            kinds = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118 - no mapping
    except Exception as error:
        refuse_shortage(error, folder.name)
        raise ModelError(
            f"is not a complete safetensors file: {extract_first_line(error)}",
            where=f"{folder.name}/{names[0]}",
            remedy="get it again",
        ) from error
    narrow = [_NARROW_TYPES[kind] for kind in sorted(kinds) if kind in _NARROW_TYPES]
    return [f"its weights are stored in {' and '.join(narrow)}; computed in float32"] if narrow else []


def _check_report(report: Mapping[str, Any], config: Any, folder: ModelFolder) -> list[str]:
    """Refuse parameters that would stay random; note stored tensors that the network has no place for."""
    problems = [
        f"{name} is {tuple(stored)} in the file and {tuple(built)} in the network"
        for name, stored, built in sorted(report["mismatched_keys"])
    ]
    problems += map(str, report["error_msgs"])
    if problems:
        raise ModelError(
            f"its file does not fit its {CONFIG_FILE}: {shorten_names(problems)}",
            where=folder.name,
            remedy="get both from the same training",
        )
    missing = sorted(report["missing_keys"])
    if missing:
        remedy = "name a model that was trained to classify images"
        if hasattr(config, "text_config"):
            remedy = "write clip: instead of hf: to classify by class names"
        raise ModelError(
            f"its file lacks {shorten_names(missing)}, which would be random",
            where=folder.name,
            remedy=remedy,
        )
    unused = sorted(report["unexpected_keys"])
    return [f"ignored {shorten_names(unused)}, which the network does not have"] if unused else []


def _remove_locations(network: nn.Module) -> None:
    """Remove the paths that transformers stores in a network, so that a moved folder is the same model."""
    for part in network.modules():
        if hasattr(part, "name_or_path"):
            part.name_or_path = ""  # type: ignore[assignment]
        config = getattr(part, "config", None)
        for entry in (config, *vars(config).values()) if config is not None else ():
            if hasattr(entry, "_name_or_path"):
                entry._name_or_path = ""  # noqa: SLF001 - nothing public sets it


def _explain_failure(folder: ModelFolder, error: Exception) -> ModelError | RefusedError:
    """Explain an error of the library in one line."""
    if "trust_remote_code" in str(error):
        return RefusedError(
            "needs Python code from its folder, which is never run",
            where=folder.name,
            remedy="use a model that transformers has itself, or python:FILE.py:NAME with --allow-code",
        )
    text = _LIBRARY_PREFIX.sub("", extract_first_line(error))
    return ModelError(f"transformers cannot load it: {text}", where=folder.name)
