"""Models built by the user's own Python file, which runs only if the user allows it."""

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
    """Load the model that ``FILE.py:NAME`` is or returns: a module, or a function of images.

    If ``NAME`` can be called without arguments, or with ``num_classes``, it builds the model; if it needs
    another argument, it is the model itself. A function returns scores or labels.

    Raises:
        RefusedError: Unless ``allow_code`` is set.
        ConfigError: If the reference is not ``FILE.py:NAME``, or the file has no such name.
        ModelError: If the file or the function raises, or the number of classes is unknown.
    """
    path, model = run_user_code(reference, request)
    loaded = _describe_made_model(model, reference, request)
    loaded.notes.append(f"built by running {path.name} (code was allowed)")
    loaded.provenance |= {"code": path.name, "code_sha256": digest_file(path)}
    return loaded


def load_from_entry_point(record: ExtensionRecord, reference: str, request: ModelRequest) -> LoadedModel:
    """Load the model that an entry point is or returns: a module, or a function of images.

    It is used like an object of a Python file, see `load_python`; a factory that takes ``reference`` gets the
    part of the source behind the entry point's name.

    Args:
        record: The entry point.
        reference: The part of the source behind the entry point's name and a colon; may be empty.
        request: The user's options.

    Raises:
        ModelError: If it cannot be imported or raises, or the number of classes is unknown.
    """
    try:
        factory = load_entry_point(record)
    except ConfigError as problem:
        raise ModelError(problem.what, where=problem.where, remedy=problem.remedy) from problem
    try:
        with fixed_initial_weights():
            model = _make_model(factory, request, reference)
    except (Exception, SystemExit) as error:
        what = f"raised {type(error).__name__}: {extract_first_line(error)}"
        raise ModelError(what, where=f"{record.name} ({record.distribution})") from error
    loaded = _describe_made_model(model, record.name, request)
    record_code(model, {record.target.partition(":")[0].strip()})
    loaded.notes.append(f"built by {record.name} of {record.distribution}")
    loaded.provenance |= {"entry_point": record.target, "distribution": record.distribution}
    return loaded


def _describe_made_model(model: Any, reference: str, request: ModelRequest) -> LoadedModel:
    """Wrap a model built by a user's code, with the weights from the request."""
    if not callable(model):
        raise ModelError(f"is a {type(model).__name__}, not a model", where=reference)
    classes = request.num_classes or getattr(model, "num_classes", None) or request.default_classes
    if not isinstance(classes, int):
        raise ModelError("its number of classes is unknown", where=reference, remedy="set num_classes")
    loaded = LoadedModel(model=model, num_classes=classes)
    if request.weights is not None:
        if not isinstance(model, nn.Module):
            raise ConfigError("a function takes no weights", where=reference, remedy="leave weights out")
        weights = request.read(request.weights)
        fit = _fit_or_replace_head(weights, model, classes)
        loaded.notes += load_fitted_weights(model, fit, weights.path.name)
        loaded.stored_normalization = fit.normalization
        loaded.record_weights(weights)
    if isinstance(model, nn.Module):
        model.eval()
    return loaded


def _fit_or_replace_head(weights: WeightsFile, network: nn.Module, classes: int) -> FittedWeights:
    """Fit the weights to the network; if needed, replace its last layer by one with ``classes`` outputs.

    Weights trained on other classes need this if the code builds a fixed number of classes.
    """
    try:
        return fit_weights(weights, network)
    except ModelError:
        layers = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
        last_layer = network.get_submodule(layers[-1]) if layers else None
        if not isinstance(last_layer, nn.Linear) or last_layer.out_features == classes:
            raise
        head = nn.Linear(last_layer.in_features, classes, bias=last_layer.bias is not None)
        parent, _, attribute = layers[-1].rpartition(".")
        setattr(network.get_submodule(parent), attribute, head)
        return fit_weights(weights, network)


def run_user_code(reference: str, request: ModelRequest) -> tuple[Path, Any]:
    """Run ``FILE.py:NAME`` and return the file and the model that it builds; errors as `load_python`."""
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
    with importable_neighbours(path) as imported_names:
        module, model = _run_file(path, name, reference, request)
    allow_late_imports(path, record_code(model, {module.__name__, *imported_names}))
    return path, model


def _run_file(path: Path, name: str, reference: str, request: ModelRequest) -> tuple[ModuleType, Any]:
    """Import the file as a module, and build the model of that name."""
    # A network that is built on import also gets the same weights in every process.
    with fixed_initial_weights():
        module = import_file(path)
    entry = getattr(module, name, None)
    if entry is None:
        names = [key for key, value in vars(module).items() if callable(value)]
        raise ConfigError(f"{path.name} has no {name!r}", where=reference, remedy=did_you_mean(name, names))
    try:
        with fixed_initial_weights():
            return module, _make_model(entry, request)
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"raised {type(error).__name__}: {extract_first_line(error)}", where=reference
        ) from error


def _make_model(entry: Any, request: ModelRequest, reference: str = "") -> Any:
    """Return the model itself, or call the factory that builds it."""
    if isinstance(entry, nn.Module) or not callable(entry):
        return entry
    parameters = inspect.signature(entry).parameters
    classes = request.num_classes or request.default_classes
    class_parameter = parameters.get("num_classes")
    required = class_parameter is not None and class_parameter.default is class_parameter.empty
    options: dict[str, Any] = (
        {"num_classes": classes} if class_parameter and classes and (required or request.num_classes) else {}
    )
    if "reference" in parameters:
        options["reference"] = reference
    return entry(**options) if _is_callable_with(entry, options) else entry


def _is_callable_with(function: Callable[..., Any], options: dict[str, Any]) -> bool:
    try:
        inspect.signature(function).bind(**options)
    except TypeError:
        return False
    return True
