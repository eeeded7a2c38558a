"""Which tensors of a file belong to a network: under which entry, behind which wrappers' names.

Training scripts save a network as one entry of several, behind prefixes that wrappers such as DataParallel,
torch.compile or a Lightning module put before its names, and beside losses, metrics and averages. Here every
place of a file is tried at which the network's own names begin. One must give it all it needs, or nothing is
loaded: if several do with different values, the user chooses.
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
"""Parts of names that say nothing but that something was wrapped, wherever they stand."""
_AUXILIARY_PATTERN = re.compile(r"(^|\.)aux", re.IGNORECASE)
"""What layers are called that classify for training alone."""


@dataclass(frozen=True)
class NetworkNames:
    """What a network needs, by its own names.

    Args:
        tensors: Its state_dict.
        parameters: Names of what was trained.
        head: Name of the layer whose rows are the classes, where known; its shape may differ in the file.
        strip: What all names begin with and the file's do not.
    """

    tensors: Mapping[str, Tensor]
    parameters: frozenset[str]
    head: str | None = None
    stripped_prefix: str = ""

    @classmethod
    def from_network(cls, network: nn.Module, head: str | None = None) -> NetworkNames:
        """The names of a network."""
        tensors = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
        return cls(tensors, frozenset(name for name, _ in network.named_parameters()), head)

    @cached_property
    def names_without_wrappers(self) -> dict[str, str]:
        """Names without wrappers' parts, to the names themselves."""
        found = _remove_wrappers(self.tensors)
        return {bare.removeprefix(self.stripped_prefix): name for bare, name in found.items()}

    @cached_property
    def first_parts(self) -> frozenset[str]:
        """First parts of the names."""
        return frozenset(name.partition(".")[0] for name in self.names_without_wrappers)

    @cached_property
    def max_depth(self) -> int:
        """Parts of the longest name."""
        return max((name.count(".") + 1 for name in self.names_without_wrappers), default=1)

    @cached_property
    def tied_names(self) -> dict[str, str]:
        """Names of tensors that are one with another, to the first name of it."""
        first: dict[tuple[int, torch.Size], str] = {}
        found = {}
        for name, value in self.tensors.items():
            if not value.numel():
                continue
            mark = (value.data_ptr(), value.shape)
            if first.setdefault(mark, name) != name:
                found[name] = first[mark]
        return found

    def belongs_to_head(self, name: str) -> bool:
        """Whether a tensor is of the last layer."""
        return self.head is not None and name in (f"{self.head}.weight", f"{self.head}.bias")

    def has_class_rows(self, name: str) -> bool:
        """Whether a tensor's rows are the classes: of the last layer, or of one that only training used.

        GoogLeNet and Inception v3 have auxiliary classifiers, called so. With another number of classes in
        the file their shapes differ too; the network that is then built for that number takes them or not.
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
    """One place of a file at which the network's names begin.

    Args:
        prefix: What stands before them, without wrappers' parts.
        names: The network's names to paths in the file.
        missing: Names that the network needs and the file does not have there; its head apart.
        misfits: Names whose tensors have another shape; the number of classes apart.
        leftovers: What else lies in the same mapping.
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
        """Whether the network gets all it needs."""
        return not self.missing and not self.shape_mismatches


def find_matches(stored: StoredTensors, network: NetworkNames) -> list[WeightMatch]:
    """The places where the network's names begin, those first that serve it best.

    Args:
        stored: What the file holds.
        network: What it is for.

    Returns:
        The complete matches with their leftovers, those first that serve it best; without one, the most
        promising alone. Empty if no name of the network is in the file.
    """
    short = _remove_wrappers(stored.tensors)
    found = _find_spelled_matches(short, stored, network)
    if found and found[0].is_complete:
        return found
    known = {part for name in network.names_without_wrappers for part in name.split(".")}
    attempts = [(_remove_unknown_words(short, known), network)]
    if len(network.first_parts) == 1 and all("." in name for name in network.names_without_wrappers):
        attempts.append((short, replace(network, stripped_prefix=f"{next(iter(network.first_parts))}.")))
    for names, asked in attempts:
        other = _find_spelled_matches(names, stored, asked)
        if other and other[0].is_complete:
            return other
    return found


def _find_spelled_matches(
    short: Mapping[str, str], stored: StoredTensors, network: NetworkNames
) -> list[WeightMatch]:
    """As `find_matches`, for names in one spelling."""
    counts, places = _count_prefixes(short, network)
    enough = min(max(counts.values(), default=0), len(network.names_without_wrappers) / 2)
    likely = [prefix for prefix in counts if counts[prefix] >= enough]
    order = sorted(likely, key=lambda prefix: (-counts[prefix], prefix.count("."), prefix))
    matches = [_build_match(prefix, short, places, stored, network) for prefix in order]
    complete = [match for match in matches if match.is_complete]
    kept = complete or matches[:1]
    taken = {path for match in kept for path in match.names.values()}
    return [_add_leftovers(match, taken, stored, network) for match in kept]


def build_container_filter(paths: Iterable[str], stored: StoredTensors) -> Callable[[str], bool]:
    """Whether a path lies where these do: in their mapping, or anywhere in their tree of mappings."""
    containers = {stored.containers[path] for path in paths}
    if len(containers) < 2:
        return lambda path: stored.containers[path] in containers
    root = find_common_path(containers)
    return lambda path: not root or f"{stored.containers[path]}.".startswith(f"{root}.")


def find_common_path(paths: Collection[str]) -> str:
    """The parts that all dotted paths begin with."""
    shared: list[str] = []
    for parts in zip(*(path.split(".") for path in paths), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def are_identical(one: WeightMatch, other: WeightMatch, stored: StoredTensors) -> bool:
    """Whether two places give the network the same values."""
    if one.names.keys() != other.names.keys():
        return False
    pairs = ((stored.tensors[path], stored.tensors[other.names[name]]) for name, path in one.names.items())
    return all(a is b or (a.dtype == b.dtype and torch.equal(a, b)) for a, b in pairs)


def remove_wrapper_parts(path: str) -> str:
    """A dotted path without the parts that only say that something was wrapped."""
    return ".".join(part for part in path.split(".") if part not in _WRAPPER_PARTS)


def has_same_shape(tensor: Tensor, expected: Tensor) -> bool:
    """Whether a tensor fits; torch itself takes scalars and single numbers for each other."""
    return tensor.shape == expected.shape or (expected.ndim == 0 and tensor.shape == (1,))


def _remove_wrappers(names: Mapping[str, Tensor]) -> dict[str, str]:
    """Names without wrappers' parts to the names; those that could then be taken for each other stay."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[remove_wrapper_parts(name)].append(name)
    found: dict[str, str] = {}
    for bare, several in groups.items():
        found |= {bare: several[0]} if len(several) == 1 else {name: name for name in several}
    return found


def _remove_unknown_words(short: Mapping[str, str], known: Collection[str]) -> dict[str, str]:
    """Names without words that the network does not use, such as a wrapper's in the middle of a name.

    Empty if two names would then be taken for each other.
    """
    found: dict[str, str] = {}
    for bare, path in short.items():
        parts = [part for part in bare.split(".") if part in known or part.isdigit()]
        if len(parts) < 2:
            parts = [bare]
        if found.setdefault(".".join(parts), path) != path:
            return {}
    return found


def _count_prefixes(
    short: Mapping[str, str], network: NetworkNames
) -> tuple[Counter[str], dict[str, list[str]]]:
    """How many of the network's names follow each prefix, and every path that each name ends."""
    counts: Counter[str] = Counter()
    places: dict[str, list[str]] = defaultdict(list)
    for bare in short:
        parts = bare.split(".")
        for start in range(max(0, len(parts) - network.max_depth), len(parts)):
            ending = ".".join(parts[start:])
            if ending in network.names_without_wrappers:
                counts[".".join(parts[:start])] += 1
                places[ending].append(bare)
    return counts, places


def _build_match(
    prefix: str,
    short: Mapping[str, str],
    places: Mapping[str, list[str]],
    stored: StoredTensors,
    network: NetworkNames,
) -> WeightMatch:
    """The network's names behind one prefix; a part that is not there at all may stand elsewhere, once."""
    here = {
        bare: path
        for bare in network.names_without_wrappers
        if (path := short.get(_join_path(prefix, bare))) is not None
    }
    there = {bare.partition(".")[0] for bare in here}
    is_inside = build_container_filter(here.values(), stored)
    names = {network.names_without_wrappers[bare]: path for bare, path in here.items()}
    for bare, name in network.names_without_wrappers.items():
        if bare.partition(".")[0] not in there:
            others = (short[place] for place in _find_elsewhere(bare, prefix, short, places))
            near = [path for path in others if is_inside(path)]
            if len(near) == 1 and _has_fitting_shape(name, stored.tensors[near[0]], network):
                names[name] = near[0]
    for name, twin in network.tied_names.items():
        one, other = (name, twin) if twin in names else (twin, name)
        if one not in names and other in names:
            names[one] = names[other]
    missing = tuple(
        name
        for name in network.tensors
        if name not in names and not name.endswith(BATCH_COUNTER_NAME) and not network.belongs_to_head(name)
    )
    misfits = tuple(
        name for name, path in names.items() if not _has_fitting_shape(name, stored.tensors[path], network)
    )
    return WeightMatch(prefix, names, missing, misfits)


def _find_elsewhere(
    bare: str, prefix: str, short: Mapping[str, str], places: Mapping[str, list[str]]
) -> list[str]:
    """Where else a name stands: beside the part that the prefix leads to, or under a prefix of its own."""
    parts = prefix.split(".") if prefix else []
    for count in range(len(parts) - 1, -1, -1):
        place = _join_path(".".join(parts[:count]), bare)
        if place in short:
            return [place]
    return places.get(bare, [])


def _join_path(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _has_fitting_shape(name: str, tensor: Tensor, network: NetworkNames) -> bool:
    expected = network.tensors[name]
    if expected.ndim and network.has_class_rows(name):
        return tensor.ndim == expected.ndim and tensor.shape[1:] == expected.shape[1:]
    return has_same_shape(tensor, expected)


def _add_leftovers(
    match: WeightMatch, taken: set[str], stored: StoredTensors, network: NetworkNames
) -> WeightMatch:
    """The match with what else lies in its mapping, copies of the network sorted out."""
    is_inside = build_container_filter(match.names.values(), stored)
    others = [path for path in stored.tensors if path not in taken and is_inside(path)]
    copies = set(_find_parameter_copies(others, stored, network))
    head = f"{match.prefix}." if match.prefix else ""

    def is_own(path: str) -> bool:
        bare = remove_wrapper_parts(path)
        return bare.startswith(head) and bare.removeprefix(head).partition(".")[0] in network.first_parts

    left = classify_leftovers((path for path in others if path not in copies), stored.tensors, is_own)
    return WeightMatch(
        match.prefix, match.names, match.missing, match.shape_mismatches, left, tuple(sorted(copies))
    )


def _find_parameter_copies(paths: list[str], stored: StoredTensors, network: NetworkNames) -> Iterator[str]:
    """Paths of moving averages: every parameter of the network once more, with or without its buffers."""
    for squeeze in (False, True):  # some averages write the names without their dots
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
        for found in groups.values():
            if {network.names_without_wrappers[name] for name in found} >= network.parameters:
                yield from found.values()
