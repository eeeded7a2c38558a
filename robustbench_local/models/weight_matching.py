"""Matching of a file's tensors to a network: under any entry, behind any wrappers' prefixes.

Training scripts save a network as one of several entries, behind the prefixes of wrappers such as
DataParallel, torch.compile or a Lightning module, and beside losses, metrics and averages. This module tries
every prefix in the file behind which the network's own names begin. One must have all tensors of the network,
or nothing is loaded. If several do and their values differ, the user chooses.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from robustbench_local.models.stored_tensors import BATCH_COUNTER_NAME, StoredTensors
from robustbench_local.models.unused_tensors import Leftovers, classify_leftovers

_WRAPPER_PARTS = frozenset(
    {
        "module",  # DataParallel, DistributedDataParallel, AveragedModel
        "_orig_mod",  # torch.compile
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
        "_forward_module",  # Lightning Fabric
    }
)
"""Parts of names that only say that something was wrapped, at any position."""
_AUXILIARY_PATTERN = re.compile(r"(^|\.)aux", re.IGNORECASE)
"""Names of auxiliary classifiers, which only training uses."""


@dataclass(frozen=True)
class NetworkNames:
    """A network's tensors, by its own names.

    Args:
        tensors: Its state_dict.
        parameters: Names of the trained parameters.
        head: Name of the layer whose rows are the classes, if known; its shape may differ in the file.
        stripped_prefix: A prefix of all names that the file's names lack.
    """

    tensors: Mapping[str, Tensor]
    parameters: frozenset[str]
    head: str | None = None
    stripped_prefix: str = ""

    @classmethod
    def from_network(cls, network: nn.Module, head: str | None = None) -> NetworkNames:
        """Collect the names of a network."""
        tensors = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
        return cls(tensors, frozenset(name for name, _ in network.named_parameters()), head)

    @cached_property
    def names_without_wrappers(self) -> dict[str, str]:
        """Name without wrappers' parts -> name."""
        by_bare_name = _remove_wrappers(self.tensors)
        return {bare.removeprefix(self.stripped_prefix): name for bare, name in by_bare_name.items()}

    @cached_property
    def first_parts(self) -> frozenset[str]:
        """First parts of the names."""
        return frozenset(name.partition(".")[0] for name in self.names_without_wrappers)

    @cached_property
    def max_depth(self) -> int:
        """Number of parts of the longest name."""
        return max((name.count(".") + 1 for name in self.names_without_wrappers), default=1)

    @cached_property
    def tied_names(self) -> dict[str, str]:
        """Name of a tensor that shares storage with an earlier one -> the first such name."""
        first_names: dict[tuple[int, torch.Size], str] = {}
        tied = {}
        for name, value in self.tensors.items():
            if not value.numel():
                continue
            storage_key = (value.data_ptr(), value.shape)
            if first_names.setdefault(storage_key, name) != name:
                tied[name] = first_names[storage_key]
        return tied

    def belongs_to_head(self, name: str) -> bool:
        """Return True if a tensor belongs to the last layer."""
        return self.head is not None and name in (f"{self.head}.weight", f"{self.head}.bias")

    def has_class_rows(self, name: str) -> bool:
        """Return True if a tensor's rows are the classes: of the last layer or an auxiliary classifier.

        GoogLeNet and Inception v3 have auxiliary classifiers. If the file has another number of classes,
        their shapes differ too; the network that is then built for that number decides if it uses them.
        """
        if self.belongs_to_head(name):
            return True
        rows = self.tensors.get(f"{self.head}.weight")
        return (
            rows is not None
            and _AUXILIARY_PATTERN.search(name) is not None
            and self.tensors[name].shape[:1] == rows.shape[:1]
        )


@dataclass(frozen=True)
class WeightMatch:
    """A prefix in a file behind which the network's names begin.

    Args:
        prefix: The prefix, without wrappers' parts.
        names: Name in the network -> path in the file.
        missing: Names that the network needs and the file lacks there, except those of its head.
        shape_mismatches: Names whose tensors have another shape, apart from the number of classes.
        leftovers: Other tensors in the same mapping.
        copies: Paths of other copies of the network's parameters in the same mapping.
    """

    prefix: str
    names: Mapping[str, str]
    missing: tuple[str, ...]
    shape_mismatches: tuple[str, ...]
    leftovers: Leftovers = field(default_factory=lambda: Leftovers((), None, ()))
    copies: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """True if all tensors of the network are there and fit."""
        return not self.missing and not self.shape_mismatches


def find_matches(stored: StoredTensors, network: NetworkNames) -> list[WeightMatch]:
    """Find the prefixes behind which the network's names begin, best first.

    Args:
        stored: The content of the file.
        network: The network's names.

    Returns:
        The complete matches with their leftovers, best first; without a complete one, the most promising
        match. Empty if the file has no name of the network.
    """
    bare_paths = _remove_wrappers(stored.tensors)
    matches = _find_spelled_matches(bare_paths, stored, network)
    if matches and matches[0].is_complete:
        return matches
    known = {part for name in network.names_without_wrappers for part in name.split(".")}
    attempts = [(_remove_unknown_words(bare_paths, known), network)]
    if len(network.first_parts) == 1 and all("." in name for name in network.names_without_wrappers):
        attempts.append((bare_paths, replace(network, stripped_prefix=f"{next(iter(network.first_parts))}.")))
    for names, variant in attempts:
        variant_matches = _find_spelled_matches(names, stored, variant)
        if variant_matches and variant_matches[0].is_complete:
            return variant_matches
    return matches


def _find_spelled_matches(
    bare_paths: Mapping[str, str], stored: StoredTensors, network: NetworkNames
) -> list[WeightMatch]:
    """Find matches, as `find_matches` does, for names in one spelling."""
    counts, paths_by_name = _count_prefixes(bare_paths, network)
    min_count = min(max(counts.values(), default=0), len(network.names_without_wrappers) / 2)
    likely = [prefix for prefix in counts if counts[prefix] >= min_count]
    order = sorted(likely, key=lambda prefix: (-counts[prefix], prefix.count("."), prefix))
    matches = [_build_match(prefix, bare_paths, paths_by_name, stored, network) for prefix in order]
    complete = [match for match in matches if match.is_complete]
    selected = complete or matches[:1]
    used_paths = {path for match in selected for path in match.names.values()}
    return [_add_leftovers(match, used_paths, stored, network) for match in selected]


def build_container_filter(paths: Iterable[str], stored: StoredTensors) -> Callable[[str], bool]:
    """Build a predicate: does a path lie in the same mapping as these, or in the same tree of mappings?"""
    containers = {stored.containers[path] for path in paths}
    if len(containers) < 2:
        return lambda path: stored.containers[path] in containers
    root = find_common_path(containers)
    return lambda path: not root or f"{stored.containers[path]}.".startswith(f"{root}.")


def find_common_path(paths: Collection[str]) -> str:
    """Return the parts that all dotted paths begin with."""
    shared: list[str] = []
    for parts in zip(*(path.split(".") for path in paths), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def are_identical(first: WeightMatch, second: WeightMatch, stored: StoredTensors) -> bool:
    """Return True if two matches give the network the same values."""
    if first.names.keys() != second.names.keys():
        return False
    pairs = ((stored.tensors[path], stored.tensors[second.names[name]]) for name, path in first.names.items())
    return all(a is b or (a.dtype == b.dtype and torch.equal(a, b)) for a, b in pairs)


def remove_wrapper_parts(path: str) -> str:
    """Remove the parts of a dotted path that only say that something was wrapped."""
    return ".".join(part for part in path.split(".") if part not in _WRAPPER_PARTS)


def has_same_shape(tensor: Tensor, expected: Tensor) -> bool:
    """Return True if a tensor fits; like torch, treat scalars and single numbers as equal."""
    return tensor.shape == expected.shape or (expected.ndim == 0 and tensor.shape == (1,))


def _remove_wrappers(names: Mapping[str, Tensor]) -> dict[str, str]:
    """Map names without wrappers' parts to the names; names that would become ambiguous are kept."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[remove_wrapper_parts(name)].append(name)
    by_bare_name: dict[str, str] = {}
    for bare, originals in groups.items():
        by_bare_name |= {bare: originals[0]} if len(originals) == 1 else {name: name for name in originals}
    return by_bare_name


def _remove_unknown_words(bare_paths: Mapping[str, str], known: Collection[str]) -> dict[str, str]:
    """Remove words that the network does not use, such as a wrapper's in the middle of a name.

    The result is empty if two names would become equal.
    """
    path_by_name: dict[str, str] = {}
    for bare, path in bare_paths.items():
        parts = [part for part in bare.split(".") if part in known or part.isdigit()]
        if len(parts) < 2:
            parts = [bare]
        if path_by_name.setdefault(".".join(parts), path) != path:
            return {}
    return path_by_name


def _count_prefixes(
    bare_paths: Mapping[str, str], network: NetworkNames
) -> tuple[Counter[str], dict[str, list[str]]]:
    """Count the network's names behind each prefix, and collect the paths that end in each name."""
    counts: Counter[str] = Counter()
    paths_by_name: dict[str, list[str]] = defaultdict(list)
    for bare in bare_paths:
        parts = bare.split(".")
        for start in range(max(0, len(parts) - network.max_depth), len(parts)):
            ending = ".".join(parts[start:])
            if ending in network.names_without_wrappers:
                counts[".".join(parts[:start])] += 1
                paths_by_name[ending].append(bare)
    return counts, paths_by_name


def _build_match(
    prefix: str,
    bare_paths: Mapping[str, str],
    paths_by_name: Mapping[str, list[str]],
    stored: StoredTensors,
    network: NetworkNames,
) -> WeightMatch:
    """Match the network's names behind one prefix; a missing part may occur elsewhere, exactly once."""
    local_paths = {
        bare: path
        for bare in network.names_without_wrappers
        if (path := bare_paths.get(_join_path(prefix, bare))) is not None
    }
    found_parts = {bare.partition(".")[0] for bare in local_paths}
    is_inside = build_container_filter(local_paths.values(), stored)
    names = {network.names_without_wrappers[bare]: path for bare, path in local_paths.items()}
    for bare, name in network.names_without_wrappers.items():
        if bare.partition(".")[0] not in found_parts:
            others = (bare_paths[key] for key in _find_elsewhere(bare, prefix, bare_paths, paths_by_name))
            candidates = [path for path in others if is_inside(path)]
            if len(candidates) == 1 and _has_fitting_shape(name, stored.tensors[candidates[0]], network):
                names[name] = candidates[0]
    for name, twin in network.tied_names.items():
        unnamed, named = (name, twin) if twin in names else (twin, name)
        if unnamed not in names and named in names:
            names[unnamed] = names[named]
    missing = tuple(
        name
        for name in network.tensors
        if name not in names and not name.endswith(BATCH_COUNTER_NAME) and not network.belongs_to_head(name)
    )
    shape_mismatches = tuple(
        name for name, path in names.items() if not _has_fitting_shape(name, stored.tensors[path], network)
    )
    return WeightMatch(prefix, names, missing, shape_mismatches)


def _find_elsewhere(
    bare: str, prefix: str, bare_paths: Mapping[str, str], paths_by_name: Mapping[str, list[str]]
) -> list[str]:
    """Find other occurrences of a name: beside the part that the prefix names, or behind another prefix."""
    parts = prefix.split(".") if prefix else []
    for count in range(len(parts) - 1, -1, -1):
        path = _join_path(".".join(parts[:count]), bare)
        if path in bare_paths:
            return [path]
    return paths_by_name.get(bare, [])


def _join_path(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _has_fitting_shape(name: str, tensor: Tensor, network: NetworkNames) -> bool:
    expected = network.tensors[name]
    if expected.ndim and network.has_class_rows(name):
        return tensor.ndim == expected.ndim and tensor.shape[1:] == expected.shape[1:]
    return has_same_shape(tensor, expected)


def _add_leftovers(
    match: WeightMatch, used_paths: set[str], stored: StoredTensors, network: NetworkNames
) -> WeightMatch:
    """Add the other tensors of its mapping to a match, with copies of the network separated."""
    is_inside = build_container_filter(match.names.values(), stored)
    others = [path for path in stored.tensors if path not in used_paths and is_inside(path)]
    copies = set(_find_parameter_copies(others, stored, network))
    head = f"{match.prefix}." if match.prefix else ""

    def is_own(path: str) -> bool:
        bare = remove_wrapper_parts(path)
        return bare.startswith(head) and bare.removeprefix(head).partition(".")[0] in network.first_parts

    leftovers = classify_leftovers((path for path in others if path not in copies), stored.tensors, is_own)
    return WeightMatch(
        match.prefix, match.names, match.missing, match.shape_mismatches, leftovers, tuple(sorted(copies))
    )


def _find_parameter_copies(paths: list[str], stored: StoredTensors, network: NetworkNames) -> Iterator[str]:
    """Yield paths of moving averages: copies of all parameters, with or without buffers."""
    for squeeze in (False, True):  # some averages drop the dots of the names
        wanted = {name.replace(".", "") if squeeze else name: name for name in network.names_without_wrappers}
        groups: dict[str, dict[str, str]] = defaultdict(dict)
        for path in paths:
            parts = remove_wrapper_parts(path).split(".")
            for start in range(max(1, len(parts) - network.max_depth), len(parts)):
                ending = ".".join(parts[start:])
                if ending in wanted and _has_fitting_shape(
                    network.names_without_wrappers[wanted[ending]], stored.tensors[path], network
                ):
                    groups[".".join(parts[:start])][wanted[ending]] = path
        for copy_paths in groups.values():
            if {network.names_without_wrappers[name] for name in copy_paths} >= network.parameters:
                yield from copy_paths.values()
