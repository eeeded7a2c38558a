"""Loading of a file's weights into a network: all that it needs, and nothing skipped silently."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_local.classifier.foreign_errors import extract_first_line, refuse_shortage
from robustbench_local.classifier.normalizations import Normalization
from robustbench_local.errors import ModelError
from robustbench_local.models.stored_tensors import BATCH_COUNTER_NAME, StoredTensors, shorten_names
from robustbench_local.models.unused_tensors import is_bookkeeping
from robustbench_local.models.weight_files import WeightsFile
from robustbench_local.models.weight_heads import StoredHead, find_head, select_unexplained
from robustbench_local.models.weight_matching import (
    NetworkNames,
    WeightMatch,
    are_identical,
    build_container_filter,
    find_common_path,
    find_matches,
)

_MAX_LISTED = 5


@dataclass(frozen=True)
class FittedWeights:
    """A file's tensors under a network's names.

    Args:
        tensors: Name in the network -> tensor.
        versions: torch's metadata about the versions of layers, if the file has it.
        notes: Remarks for the reader of the results.
        num_classes: Rows of the last layer, if that layer is known and in the file.
        head: Path of the last layer's weight in the file; empty if unknown.
        normalization: A normalization stored beside the network in the file.
    """

    tensors: Mapping[str, Tensor]
    versions: Mapping[str, Any] | None
    notes: tuple[str, ...]
    num_classes: int | None
    head: str
    normalization: Normalization | None


def load_weights(module: nn.Module, weights: WeightsFile) -> list[str]:
    """Copy weights into a module; every name, except for wrappers' prefixes, and every shape must fit.

    Args:
        module: The network.
        weights: The result of `read_weights`.

    Returns:
        Notes for the reader of the results.

    Raises:
        ModelError: As `fit_weights` does.
    """
    return load_fitted_weights(module, fit_weights(weights, module), weights.path.name)


def fit_weights(weights: WeightsFile, network: nn.Module, head: str | None = None) -> FittedWeights:
    """Find the set of weights in a file that fits a network.

    Args:
        weights: The result of `read_weights`.
        network: The network.
        head: Name of the layer whose rows are the classes, which may have another size and another name in
            the file. With None every name and shape must be the network's own.

    Raises:
        ModelError: If nothing fits, with a list of missing, unexpected and misshapen tensors, or if several
            sets with different values fit.
    """
    network_names = NetworkNames.from_network(network, head)
    match, stored_head = _choose_match(weights, network_names)
    names = {name: path for name, path in match.names.items() if not network_names.belongs_to_head(name)}
    names |= stored_head.names
    _check_tied_tensors(names, network_names, weights)
    tensors = {name: weights.stored.tensors[path] for name, path in names.items()}
    weight, bias = f"{head}.weight", f"{head}.bias"
    notes = [*_iterate_notes(match, names, weights), *([stored_head.note] if stored_head.note else [])]
    if weight in tensors and bias in network_names.tensors and bias not in tensors:
        tensors[bias] = torch.zeros(len(tensors[weight]), dtype=tensors[weight].dtype)
        notes.append(f"the last layer of {weights.path.name} has no bias: it is 0")
    return FittedWeights(
        tensors=tensors,
        versions=None if stored_head.note else _collect_versions(names, weights.stored),
        notes=tuple(notes),
        num_classes=len(tensors[weight]) if weight in tensors else None,
        head=names.get(weight, ""),
        normalization=match.leftovers.normalization,
    )


def load_fitted_weights(module: nn.Module, fit: FittedWeights, where: str) -> list[str]:
    """Copy fitted tensors into a module.

    Args:
        module: The network, with the tensors' number of classes.
        fit: From `fit_weights`.
        where: The file's name, for messages.

    Returns:
        Notes for the reader of the results.

    Raises:
        ModelError: If a shape does not fit the module after all.
    """
    expected = module.state_dict()
    _check_dtypes(fit, expected, where)
    # Old versions of torch have no batch-norm counter; files without it are complete.
    state = OrderedDict(
        {name: value for name, value in expected.items() if name.endswith(BATCH_COUNTER_NAME)}
    )
    state.update(fit.tensors)
    state.update((name, value) for name, value in expected.items() if not isinstance(value, Tensor))
    # Some networks detect old files by the versions of layers, which safetensors files lack.
    versions = fit.versions or getattr(expected, "_metadata", {})
    state._metadata = versions  # type: ignore[attr-defined]  # noqa: SLF001
    try:
        module.load_state_dict(state, strict=True)
    except (RuntimeError, ValueError) as error:
        refuse_shortage(error, where)
        raise ModelError(f"does not fit the network: {extract_first_line(error)}", where=where) from error
    stored = {tensor.dtype for tensor in fit.tensors.values() if tensor.is_floating_point()}
    half = sorted(str(dtype).removeprefix("torch.") for dtype in stored if dtype.itemsize < 4)
    return [*fit.notes, *(f"weights are stored as {dtype}" for dtype in half)]


def _check_dtypes(fit: FittedWeights, expected: Mapping[str, Any], where: str) -> None:
    """Refuse integer or complex weights, whose scale or imaginary part would be dropped silently."""
    wrong_dtypes = [
        f"{name} {str(tensor.dtype).removeprefix('torch.')}"
        for name, tensor in fit.tensors.items()
        if expected[name].is_floating_point() and not tensor.is_floating_point()
    ]
    if wrong_dtypes:
        raise ModelError(
            f"holds {_format_list('weights that are not floating-point numbers', wrong_dtypes)}",
            where=where,
            remedy="save the weights as float32; those of a quantized network need their scales",
        )


def _choose_match(weights: WeightsFile, network: NetworkNames) -> tuple[WeightMatch, StoredHead]:
    """Choose the part of the file that fits the network, with its last layer."""
    stored, where = weights.stored, weights.path.name
    matches = find_matches(stored, network)
    if not matches or not matches[0].is_complete:
        needed = (name for name in network.tensors if not network.belongs_to_head(name))
        empty_match = WeightMatch("", {}, tuple(needed), ())
        raise _build_misfit_error(matches[0] if matches else empty_match, weights, network)
    usable: list[tuple[WeightMatch, StoredHead]] = []
    problems: list[ModelError] = []
    for match in matches:
        try:
            head = find_head(match, stored, network, where)
        except ModelError as problem:
            problems.append(problem)
            continue
        if select_unexplained(match.leftovers, head):
            problems.append(_build_misfit_error(match, weights, network))
        elif not any(are_identical(match, other, stored) for other, _ in usable):
            usable.append((match, head))
    if not usable:
        raise problems[0]
    selected = [choice for choice in usable if weights.entry == _format_entry(choice[0], stored)]
    if len(usable) > 1 and len(selected) != 1:
        raise _build_ambiguity_error([match for match, _ in usable], weights)
    return (selected or usable)[0]


def _format_entry(match: WeightMatch, stored: StoredTensors) -> str:
    """Return the value of ``entry`` that selects a match."""
    name, path = next(iter(match.names.items()))
    prefix = path.removesuffix(name).rstrip(".") if path.endswith(name) else stored.containers[path]
    return prefix or "."


def _build_ambiguity_error(matches: list[WeightMatch], weights: WeightsFile) -> ModelError:
    stored, listed = weights.stored, []
    for match in matches[:_MAX_LISTED]:
        numbers = sum(stored.tensors[path].numel() for path in match.names.values())
        listed.append(f"{_format_entry(match, stored)!r} ({len(match.names)} tensors, {numbers:,} numbers)")
    more = ", ..." if len(matches) > _MAX_LISTED else ""
    return ModelError(
        f"holds {len(matches)} sets of weights that fit the network and differ: {', '.join(listed)}{more}",
        where=weights.path.name,
        remedy=f"select one, such as entry: {_format_entry(matches[0], stored)!r}",
    )


def _build_misfit_error(match: WeightMatch, weights: WeightsFile, network: NetworkNames) -> ModelError:
    """Build the error that lists what does not fit."""
    stored = weights.stored
    misfits = [
        f"{name} {tuple(stored.tensors[match.names[name]].shape)} instead of "
        f"{tuple(network.tensors[name].shape)}"
        for name in match.shape_mismatches
    ]
    head = f"{match.prefix}." if match.prefix else ""
    leftovers = match.leftovers.unexplained if match.names else tuple(stored.tensors)
    extra = [path.removeprefix(head) for path in leftovers]
    missing = [name for name in network.tensors if network.belongs_to_head(name) and name not in match.names]
    parts = [
        _format_list("missing", [*match.missing, *missing]),
        _format_list("unexpected", extra),
        _format_list("of another shape", misfits),
    ]
    entry_advice = "" if match.missing or misfits else _describe_entry_remedy(match, weights)
    return ModelError(
        f"does not fit the network: {'; '.join(part for part in parts if part)}",
        where=weights.path.name,
        remedy=f"check the architecture and num_classes{entry_advice}",
    )


def _describe_entry_remedy(match: WeightMatch, weights: WeightsFile) -> str:
    """Return advice on selecting an entry without the leftovers, if a path can do it."""
    entry = _format_entry(match, weights.stored)
    if entry in (".", weights.entry):
        return ""
    return f", or set entry: {entry!r} if the unexpected tensors do not affect its output"


def _check_tied_tensors(names: Mapping[str, str], network: NetworkNames, weights: WeightsFile) -> None:
    """Refuse two different values for one tensor of the network."""
    for name, twin in network.tied_names.items():
        if name in names and twin in names:
            first, second = (weights.stored.tensors[names[key]] for key in (name, twin))
            if not torch.equal(first, second):
                raise ModelError(
                    f"{twin} and {name} are one tensor in the network, and differ in the file",
                    where=weights.path.name,
                    remedy="check the architecture",
                )


def _collect_versions(names: Mapping[str, str], stored: StoredTensors) -> dict[str, Any] | None:
    """Return the layers' versions under the network's names, if one prefix leads to all of them."""
    containers = {stored.containers[path] for path in names.values()}
    prefixes = {_find_prefix(name, path, stored) for name, path in names.items()}
    known = stored.versions.get(next(iter(containers), ""))
    if len(containers) != 1 or len(prefixes) != 1 or not known:
        return None
    prefix = next(iter(prefixes))
    if prefix is None:
        return None
    inner = {key.removeprefix(prefix): value for key, value in known.items() if key.startswith(prefix)}
    return {"": known.get(prefix.rstrip("."), {}), **inner}


def _find_prefix(name: str, path: str, stored: StoredTensors) -> str | None:
    """Return the prefix of a network's name inside its mapping; None if the names differ otherwise."""
    inner_path = path.removeprefix(f"{stored.containers[path]}.") if stored.containers[path] else path
    return inner_path.removesuffix(name) if inner_path.endswith(name) else None


def _iterate_notes(match: WeightMatch, names: Mapping[str, str], weights: WeightsFile) -> Iterator[str]:
    """Yield notes on the origin of the weights and on unused tensors."""
    stored, where = weights.stored, weights.path.name
    containers = {stored.containers[path] for path in names.values()}
    root = find_common_path(containers)
    if root:
        yield f"took the weights from the entry {root!r} of {where}"
    yield from _iterate_renaming_notes(match, names, weights) if len(containers) == 1 else ()
    if match.leftovers.harmless:
        yield (
            f"ignored in {where}: {shorten_names(match.leftovers.harmless)} (losses, metrics and counters do "
            "not affect the output)"
        )
    if match.copies:
        yield f"{where} also holds a copy of the parameters that was not used: {shorten_names(match.copies)}"
    others = _list_other_mappings(names, weights)
    if others:
        yield f"{where} also holds {shorten_names(others)}: not used"


def _iterate_renaming_notes(
    match: WeightMatch, names: Mapping[str, str], weights: WeightsFile
) -> Iterator[str]:
    """Yield notes on prefixes and wrappers removed from the names of a mapping."""
    where = weights.path.name
    prefix_by_path: dict[str, str | None] = {}  # by path, as layers that share a tensor share its path
    for name, path in match.names.items():
        if names.get(name) == path and prefix_by_path.get(path) is None:
            prefix_by_path[path] = _find_prefix(name, path, weights.stored)
    if None in prefix_by_path.values():
        yield f"removed wrappers' parts, such as 'module', from the parameter names of {where}"
    prefixes = sorted({prefix for prefix in prefix_by_path.values() if prefix})
    if prefixes:
        word = "prefix" if len(prefixes) == 1 else "prefixes"
        listed = shorten_names([repr(prefix) for prefix in prefixes])
        yield f"removed the {word} {listed} from the parameter names of {where}"


def _list_other_mappings(names: Mapping[str, str], weights: WeightsFile) -> list[str]:
    """List the file's other mappings with their number of tensors, except optimizers' states."""
    stored = weights.stored
    is_inside = build_container_filter(names.values(), stored)
    counts = Counter(
        container or "."
        for path, container in stored.containers.items()
        if not is_inside(path) and not is_bookkeeping(path)
    )
    return [f"{container!r} ({count} tensors)" for container, count in counts.items()]


def _format_list(what: str, names: list[str]) -> str:
    return f"{len(names)} {what} ({shorten_names(names)})" if names else ""
