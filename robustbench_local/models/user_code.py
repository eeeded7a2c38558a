"""Models that a user's own Python file makes; the file runs only if the user allows it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from robustbench_local.classifier.foreign_errors import extract_first_line
from robustbench_local.classifier.model_identity import record_code
from robustbench_local.config.file_lookup import find_file
from robustbench_local.errors import ConfigError, ModelError, RefusedError, did_you_mean
from robustbench_local.extensions.entry_points import ExtensionRecord, load_entry_point
from robustbench_local.extensions.user_import import (
    allow_late_imports,
    digest_file,
    import_file,
    importable_neighbours,
)
from robustbench_local.models.loaded_model import LoadedModel, ModelRequest
from robustbench_local.models.networks.network_registry import fixed_initial_weights
from robustbench_local.models.weight_files import WeightsFile
from robustbench_local.models.weight_loading import FittedWeights, fit_weights, load_fitted_weights


def load_python(reference: str, request: ModelRequest) -> LoadedModel:
    """What ``FILE.py:NAME`` is or returns: a module, or a function from images to scores or labels.

    A ``NAME`` that can be called without arguments, or with ``num_classes``, makes the model; one that needs
    another argument is the model itself.

    Raises:
        RefusedError: Unless ``allow_code`` is set.
        ConfigError: If the place is not written ``FILE.py:NAME``, or the file has no such name.
        ModelError: If the file or the function raises, or the number of classes cannot be known.
    """
    path, made = run_user_code(reference, request)
    found = _describe_made_model(made, reference, request)
    found.notes.append(f"made by running {path.name} (code was allowed)")
    found.provenance |= {"code": path.name, "code_sha256": digest_file(path)}
    return found


def load_from_entry_point(record: ExtensionRecord, reference: str, request: ModelRequest) -> LoadedModel:
    """What an entry point is or returns: a module, or a function from images to scores or labels.

    It is used as what a Python file names, see `load_python`; a factory that takes ``reference`` is given what
    stands behind the name.

    Args:
        record: The entry point.
        reference: What stands behind its name and a colon; empty if nothing does.
        request: What the user said about the model.

    Raises:
        ModelError: If it cannot be imported or raises, or the number of classes cannot be known.
    """
    try:
        found = load_entry_point(record)
    except ConfigError as problem:
        raise ModelError(problem.what, where=problem.where, remedy=problem.remedy) from problem
    try:
        with fixed_initial_weights():
            made = _make_model(found, request, reference)
    except (Exception, SystemExit) as error:
        what = f"raised {type(error).__name__}: {extract_first_line(error)}"
        raise ModelError(what, where=f"{record.name} ({record.distribution})") from error
    loaded = _describe_made_model(made, record.name, request)
    record_code(made, {record.target.partition(":")[0].strip()})
    loaded.notes.append(f"made by {record.name} of {record.distribution}")
    loaded.provenance |= {"entry_point": record.target, "distribution": record.distribution}
    return loaded


def _describe_made_model(made: Any, reference: str, request: ModelRequest) -> LoadedModel:
    """What a user's code made, with the weights that belong into it."""
    if not callable(made):
        raise ModelError(f"is a {type(made).__name__}, not a model", where=reference)
    classes = request.num_classes or getattr(made, "num_classes", None) or request.default_classes
    if not isinstance(classes, int):
        raise ModelError("its number of classes is unknown", where=reference, remedy="set num_classes")
    found = LoadedModel(model=made, num_classes=classes)
    if request.weights is not None:
        if not isinstance(made, nn.Module):
            raise ConfigError("a function takes no weights", where=reference, remedy="leave weights out")
        weights = request.read(request.weights)
        fit = _fit_or_replace_head(weights, made, classes)
        found.notes += load_fitted_weights(made, fit, weights.path.name)
        found.stored_normalization = fit.normalization
        found.record_weights(weights)
    if isinstance(made, nn.Module):
        made.eval()
    return found


def _fit_or_replace_head(weights: WeightsFile, network: nn.Module, classes: int) -> FittedWeights:
    """The weights under the network's names; a last layer of so many classes replaces one of another number.

    That is what a training on other classes leaves, where the code says a number of its own.
    """
    try:
        return fit_weights(weights, network)
    except ModelError:
        layers = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
        own = network.get_submodule(layers[-1]) if layers else None
        if not isinstance(own, nn.Linear) or own.out_features == classes:
            raise
        head = nn.Linear(own.in_features, classes, bias=own.bias is not None)
        parent, _, attribute = layers[-1].rpartition(".")
        setattr(network.get_submodule(parent), attribute, head)
        return fit_weights(weights, network)


def run_user_code(reference: str, request: ModelRequest) -> tuple[Path, Any]:
    """Run ``FILE.py:NAME`` and return the file and the model that it makes; errors as `load_python`."""
    file, _, name = reference.rpartition(":")
    if not file or not name:
        raise ConfigError(f"cannot read {reference!r}", remedy="write python:FILE.py:NAME")
    if not request.allow_code:
        raise RefusedError(
            f"{file} would be run as code",
            where=reference,
            remedy="read it, then allow it with --allow-code (allow_code=True)",
        )
    path = find_file(file, request.base_folder)
    with importable_neighbours(path) as brought:
        module, made = _run_file(path, name, reference, request)
    allow_late_imports(path, record_code(made, {module.__name__, *brought}))
    return path, made


def _run_file(path: Path, name: str, place: str, request: ModelRequest) -> tuple[ModuleType, Any]:
    """The file as a module, and what its entry of that name makes."""
    with (
        fixed_initial_weights()
    ):  # a network that is made on import has the same weights in every process, too
        module = import_file(path)
    found = getattr(module, name, None)
    if found is None:
        names = [entry for entry, value in vars(module).items() if callable(value)]
        raise ConfigError(f"{path.name} has no {name!r}", where=place, remedy=did_you_mean(name, names))
    try:
        with fixed_initial_weights():
            return module, _make_model(found, request)
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"raised {type(error).__name__}: {extract_first_line(error)}", where=place
        ) from error


def _make_model(found: Any, request: ModelRequest, reference: str = "") -> Any:
    """The model itself, or what the factory makes."""
    if isinstance(found, nn.Module) or not callable(found):
        return found
    parameters = inspect.signature(found).parameters
    classes = request.num_classes or request.default_classes
    wanted = parameters.get("num_classes")
    required = wanted is not None and wanted.default is wanted.empty
    options: dict[str, Any] = (
        {"num_classes": classes} if wanted and classes and (required or request.num_classes) else {}
    )
    if "reference" in parameters:
        options["reference"] = reference
    return found(**options) if _is_callable_with(found, options) else found


def _is_callable_with(function: Callable[..., Any], options: dict[str, Any]) -> bool:
    try:
        inspect.signature(function).bind(**options)
    except TypeError:
        return False
    return True
