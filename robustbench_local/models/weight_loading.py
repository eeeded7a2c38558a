"""Filling a network from a file: every tensor that it needs, none in silence."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_local.classifier.foreign_errors import extract_first_line
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
    """The tensors of a file under a network's names.

    Args:
        tensors: The network's names to tensors.
        versions: What torch keeps about layers' versions, if the file has it.
        notes: What a reader of the results should know.
        classes: Rows of the last layer, where the network's is known and in the file.
        head: The path of the last layer's weight in the file; empty where it is not known.
        normalization: A normalisation that lies beside the network in the file.
    """

    tensors: Mapping[str, Tensor]
    versions: Mapping[str, Any] | None
    notes: tuple[str, ...]
    num_classes: int | None
    head: str
    normalization: Normalization | None


def load_weights(module: nn.Module, weights: WeightsFile) -> list[str]:
    """Copy weights into a module; every name, but for wrappers' prefixes, and every shape must fit.

    Args:
        module: The network.
        weights: What `read_weights` returned.

    Returns:
        Notes for the reader of the results.

    Raises:
        ModelError: As `fit_weights` does.
    """
    return load_fitted_weights(module, fit_weights(weights, module), weights.path.name)


def fit_weights(weights: WeightsFile, network: nn.Module, head: str | None = None) -> FittedWeights:
    """Find the one set of weights in a file that fits a network.

    Args:
        weights: What `read_weights` returned.
        network: What they are for.
        head: Name of the layer whose rows are the classes; the file may have another number of them, and
            another name for it. None: every name and shape must be the network's own.

    Raises:
        ModelError: If nothing fits, listing what is missing, unexpected or of another shape; or if several
            sets with different values do.
    """
    network_names = NetworkNames.from_network(network, head)
    match, found = _choose_match(weights, network_names)
    names = {name: path for name, path in match.names.items() if not network_names.belongs_to_head(name)}
    names |= found.names
    _check_tied_tensors(names, network_names, weights)
    tensors = {name: weights.stored.tensors[path] for name, path in names.items()}
    weight, bias = f"{head}.weight", f"{head}.bias"
    notes = [*_iterate_notes(match, names, weights), *([found.note] if found.note else [])]
    if weight in tensors and bias in network_names.tensors and bias not in tensors:
        tensors[bias] = torch.zeros(len(tensors[weight]), dtype=tensors[weight].dtype)
        notes.append(f"the last layer of {weights.path.name} has no bias: it is 0")
    return FittedWeights(
        tensors=tensors,
        versions=None if found.note else _collect_versions(names, weights.stored),
        notes=tuple(notes),
        num_classes=len(tensors[weight]) if weight in tensors else None,
        head=names.get(weight, ""),
        normalization=match.leftovers.normalization,
    )


def load_fitted_weights(module: nn.Module, fit: FittedWeights, where: str) -> list[str]:
    """Copy tensors that were found to fit into a module.

    Args:
        module: The network, with as many classes as the tensors.
        fit: From `fit_weights`.
        where: The file's name, for messages.

    Returns:
        Notes for the reader of the results.

    Raises:
        ModelError: If the module takes another shape after all.
    """
    expected = module.state_dict()
    _check_dtypes(fit, expected, where)
    # Batch norm's counter came late to torch; files without it are complete.
    state = OrderedDict(
        {name: value for name, value in expected.items() if name.endswith(BATCH_COUNTER_NAME)}
    )
    state.update(fit.tensors)
    state.update((name, value) for name, value in expected.items() if not isinstance(value, Tensor))
    # Versions of the layers, by which some networks tell old files from new ones; safetensors have none.
    versions = fit.versions or getattr(expected, "_metadata", {})
    state._metadata = versions  # type: ignore[attr-defined]  # noqa: SLF001
    try:
        module.load_state_dict(state, strict=True)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"does not fit the network: {extract_first_line(error)}", where=where) from error
    stored = {tensor.dtype for tensor in fit.tensors.values() if tensor.is_floating_point()}
    half = sorted(str(dtype).removeprefix("torch.") for dtype in stored if dtype.itemsize < 4)
    return [*fit.notes, *(f"weights are stored as {dtype}" for dtype in half)]


def _check_dtypes(fit: FittedWeights, expected: Mapping[str, Any], where: str) -> None:
    """Whole or complex numbers would be copied into floats as if their scale or other half were nothing."""
    odd = [
        f"{name} {str(tensor.dtype).removeprefix('torch.')}"
        for name, tensor in fit.tensors.items()
        if expected[name].is_floating_point() and not tensor.is_floating_point()
    ]
    if odd:
        raise ModelError(
            f"holds {_format_list('weights that are no floating-point numbers', odd)}",
            where=where,
            remedy="save the weights as float32; those of a quantized network need their scales",
        )


def _choose_match(weights: WeightsFile, network: NetworkNames) -> tuple[WeightMatch, StoredHead]:
    """The place of the file that serves the network, with its last layer."""
    stored, where = weights.stored, weights.path.name
    matches = find_matches(stored, network)
    if not matches or not matches[0].is_complete:
        needed = (name for name in network.tensors if not network.belongs_to_head(name))
        nothing = WeightMatch("", {}, tuple(needed), ())
        raise _build_misfit_error(matches[0] if matches else nothing, weights, network)
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
    named = [one for one in usable if weights.entry == _format_entry(one[0], stored)]
    if len(usable) > 1 and len(named) != 1:
        raise _build_ambiguity_error([match for match, _ in usable], weights)
    return (named or usable)[0]


def _format_entry(match: WeightMatch, stored: StoredTensors) -> str:
    """What a user writes as ``entry`` to choose a match."""
    name, path = next(iter(match.names.items()))
    before = path.removesuffix(name).rstrip(".") if path.endswith(name) else stored.containers[path]
    return before or "."


def _build_ambiguity_error(matches: list[WeightMatch], weights: WeightsFile) -> ModelError:
    stored, listed = weights.stored, []
    for match in matches[:_MAX_LISTED]:
        numbers = sum(stored.tensors[path].numel() for path in match.names.values())
        listed.append(f"{_format_entry(match, stored)!r} ({len(match.names)} tensors, {numbers:,} numbers)")
    more = ", ..." if len(matches) > _MAX_LISTED else ""
    return ModelError(
        f"holds {len(matches)} sets of weights that fit the network and differ: {', '.join(listed)}{more}",
        where=weights.path.name,
        remedy=f"say which one, such as entry: {_format_entry(matches[0], stored)!r}",
    )


def _build_misfit_error(match: WeightMatch, weights: WeightsFile, network: NetworkNames) -> ModelError:
    """The line that lists what does not fit."""
    stored = weights.stored
    misfits = [
        f"{name} {tuple(stored.tensors[match.names[name]].shape)} instead of "
        f"{tuple(network.tensors[name].shape)}"
        for name in match.shape_mismatches
    ]
    head = f"{match.prefix}." if match.prefix else ""
    left = match.leftovers.unexplained if match.names else tuple(stored.tensors)
    extra = [path.removeprefix(head) for path in left]
    missing = [name for name in network.tensors if network.belongs_to_head(name) and name not in match.names]
    parts = [
        _format_list("missing", [*match.missing, *missing]),
        _format_list("unexpected", extra),
        _format_list("of another shape", misfits),
    ]
    apart = "" if match.missing or misfits else _describe_entry_remedy(match, weights)
    return ModelError(
        f"does not fit the network: {'; '.join(part for part in parts if part)}",
        where=weights.path.name,
        remedy=f"check the architecture and num_classes{apart}",
    )


def _describe_entry_remedy(match: WeightMatch, weights: WeightsFile) -> str:
    """How to say that what is left over has no part in the network, where a path can say it."""
    entry = _format_entry(match, weights.stored)
    if entry in (".", weights.entry):
        return ""
    return f", or set entry: {entry!r} if what is unexpected has no part in its answers"


def _check_tied_tensors(names: Mapping[str, str], network: NetworkNames, weights: WeightsFile) -> None:
    """One tensor of the network cannot get two values."""
    for name, twin in network.tied_names.items():
        if name in names and twin in names:
            one, other = (weights.stored.tensors[names[each]] for each in (name, twin))
            if not torch.equal(one, other):
                raise ModelError(
                    f"{twin} and {name} are one tensor in the network, and differ in the file",
                    where=weights.path.name,
                    remedy="check the architecture",
                )


def _collect_versions(names: Mapping[str, str], stored: StoredTensors) -> dict[str, Any] | None:
    """Layers' versions under the network's names, if one prefix leads to all of them."""
    containers = {stored.containers[path] for path in names.values()}
    prefixes = {_find_prefix(name, path, stored) for name, path in names.items()}
    known = stored.versions.get(next(iter(containers), ""))
    if len(containers) != 1 or len(prefixes) != 1 or not known:
        return None
    before = next(iter(prefixes))
    if before is None:
        return None
    inner = {key.removeprefix(before): value for key, value in known.items() if key.startswith(before)}
    return {"": known.get(before.rstrip("."), {}), **inner}


def _find_prefix(name: str, path: str, stored: StoredTensors) -> str | None:
    """What stands before a network's name inside its mapping; None if more than that differs."""
    inside = path.removeprefix(f"{stored.containers[path]}.") if stored.containers[path] else path
    return inside.removesuffix(name) if inside.endswith(name) else None


def _iterate_notes(match: WeightMatch, names: Mapping[str, str], weights: WeightsFile) -> Iterator[str]:
    """Where the weights were taken from, and what was left where it is."""
    stored, where = weights.stored, weights.path.name
    containers = {stored.containers[path] for path in names.values()}
    root = find_common_path(containers)
    if root:
        yield f"took the weights from the entry {root!r} of {where}"
    yield from _iterate_renaming_notes(match, names, weights) if len(containers) == 1 else ()
    if match.leftovers.harmless:
        yield (
            f"left aside in {where}: {shorten_names(match.leftovers.harmless)} (losses, metrics and counters have "
            "no part in the answers)"
        )
    if match.copies:
        yield f"{where} also holds a copy of the parameters that was not used: {shorten_names(match.copies)}"
    others = _list_other_mappings(names, weights)
    if others:
        yield f"{where} also holds {shorten_names(others)}: not used"


def _iterate_renaming_notes(
    match: WeightMatch, names: Mapping[str, str], weights: WeightsFile
) -> Iterator[str]:
    """What was taken off the names of a mapping."""
    where = weights.path.name
    before: dict[str, str | None] = {}  # by path, as layers that share a tensor share its path
    for name, path in match.names.items():
        if names.get(name) == path and before.get(path) is None:
            before[path] = _find_prefix(name, path, weights.stored)
    if None in before.values():
        yield f"took wrappers' parts, such as 'module', out of the parameter names of {where}"
    prefixes = sorted({prefix for prefix in before.values() if prefix})
    if prefixes:
        word = "prefix" if len(prefixes) == 1 else "prefixes"
        listed = shorten_names([repr(prefix) for prefix in prefixes])
        yield f"took the {word} {listed} off the parameter names of {where}"


def _list_other_mappings(names: Mapping[str, str], weights: WeightsFile) -> list[str]:
    """Other mappings of the file with tensors, how many they hold, without optimizers' states."""
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
