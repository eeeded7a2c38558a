"""What differs between two runs besides their results, by name: data, attacks, seeds, versions, weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.run_pairs import (
    CellPair,
    PairedCells,
    SubjectPair,
    pair_cells,
    pair_subjects,
)
from robustbench_local.reports.formatting.text import format_count, isolate_direction, join_in_sentence

DifferenceKind = Literal[
    "data",
    "threat model",
    "attack",
    "images",
    "seed",
    "code",
    "version",
    "setting",
    "surrogate",
    "classes",
    "unfinished",
    "missing",
    "weights",
    "device",
]
Effect = Literal["unpaired", "marked", "noted"]
"""``unpaired``: nothing of it can be compared image by image. ``marked``: the difference of the results may
come from this instead of the model. ``noted``: it is what is compared, or it hardly matters."""

MAX_NAMED_PARAMETERS = 4
"""Hyper-parameters that one difference names."""
MAX_VALUE_CHARACTERS = 160
"""Length from which on a value is cut."""
PRESENT, ABSENT = "present", "absent"
"""Values of what only one run has; ``absent`` is also a value that a run did not store."""

_EFFECT_ORDER: tuple[Effect, ...] = ("unpaired", "marked", "noted")
_DIGEST_CHARACTERS = 12
_METHOD_PARTS = ("attack", "certificate")
_NAMED_PARTS = frozenset(
    {*_METHOD_PARTS, "model", "data", "seed", "code", "defense", "search", "threat", "sources", "limit"}
    | {"surrogate"}
)
"""Parts of a cell's identity that have their own differences; any other part belongs to its attack."""
_SETTING_KEYS = {"search_precision": "precision of the search", "skip_verified": "skip_verified"}
_VERSION_PREFIX = "version of "


@dataclass(frozen=True, kw_only=True)
class RunDifference:
    """One named difference between two runs."""

    kind: DifferenceKind
    """What kind of thing differs."""
    what: str
    """What differs, e.g. ``seed`` or ``hyper-parameters of PGD-50 on plain``."""
    first: str
    """Its value in the first run."""
    second: str
    """Its value in the second run."""
    effect: Effect
    """What it means for a comparison of the results."""
    cells: frozenset[str] = frozenset()
    """Keys of the concerned cells of both runs; empty: all of them."""

    def describe_values(self, first_name: str, second_name: str) -> str:
        """Describe it in one line, with names for the two runs."""
        return f"{self.what}: {self.first} in {first_name}, {self.second} in {second_name}"

    def concerns_cell(self, key: str) -> bool:
        """Return whether it concerns a cell of either run."""
        return not self.cells or key in self.cells


def find_run_differences(
    first: Evidence, second: Evidence, pairs: Sequence[SubjectPair] | None = None
) -> tuple[RunDifference, ...]:
    """Find what differs between two runs.

    Args:
        first: The first run, such as the baseline.
        second: The second run.
        pairs: The models that are compared; None: those of ``pair_subjects``.

    Returns:
        The differences; those that forbid a comparison of images come first, then those that may explain a
        difference of results.

    Raises:
        ConfigError: If the runs have no model in common and ``pairs`` is None.
    """
    compared = pair_subjects(first, second) if pairs is None else pairs
    differences = [*_compare_settings(first, second)]
    for subjects in compared:
        cells = pair_cells(first, second, subjects)
        differences += _compare_subjects(first, second, subjects)
        differences += _compare_cells(cells, subjects)
    unique = dict.fromkeys(differences)
    return tuple(sorted(unique, key=lambda difference: _EFFECT_ORDER.index(difference.effect)))


def has_same_images(differences: Sequence[RunDifference]) -> bool:
    """Return whether two runs with these differences can be compared image by image."""
    return not any(difference.kind == "data" for difference in differences)


def _compare_settings(first: Evidence, second: Evidence) -> Iterator[RunDifference]:
    """Compare what holds for all cells of a run."""
    data = [
        evidence.data.get("digest") or evidence.identity.get("data digest") for evidence in (first, second)
    ]
    if data[0] != data[1]:
        yield RunDifference(
            kind="data",
            what="data",
            first=_describe_data(first.data, data[0]),
            second=_describe_data(second.data, data[1]),
            effect="unpaired",
        )
    yield from _compare_values("seed", "seed", [first.seed, second.seed], "marked")
    codes = [
        evidence.identity.get("code") or evidence.environment.get("code") for evidence in (first, second)
    ]
    yield from _compare_values("code", "code that decides verdicts", codes, "marked")
    for key, name in _SETTING_KEYS.items():
        values = [evidence.identity.get(key) for evidence in (first, second)]
        yield from _compare_values("setting", name, values, "marked")
    yield from _compare_versions(first, second)
    devices = [evidence.environment.get("device") for evidence in (first, second)]
    yield from _compare_values("device", "device", devices, "noted")


def _compare_versions(first: Evidence, second: Evidence) -> Iterator[RunDifference]:
    """Compare versions; those of a run's identity decide verdicts, the others hardly matter."""
    deciding = [
        {
            name.removeprefix(_VERSION_PREFIX): value
            for name, value in evidence.identity.items()
            if name.startswith(_VERSION_PREFIX) and " of model " not in name
        }
        for evidence in (first, second)
    ]
    every = [
        {**(evidence.environment.get("versions") or {}), **own}
        for evidence, own in zip((first, second), deciding, strict=True)
    ]
    for name in sorted({*every[0], *every[1]} - {"robustbench-local"}):
        effect: Effect = "marked" if name in {*deciding[0], *deciding[1]} else "noted"
        values = [versions.get(name) for versions in every]
        yield from _compare_values("version", f"version of {name}", values, effect)


def _compare_subjects(first: Evidence, second: Evidence, subjects: SubjectPair) -> Iterator[RunDifference]:
    """Compare two models: their weights, and their classes by index."""
    abouts = [
        _find_description(first, subjects.first.model, subjects.first.defense),
        _find_description(second, subjects.second.model, subjects.second.defense),
    ]
    name = _format_subjects(subjects)
    digests = [_shorten_digest(about.get("digest")) for about in abouts]
    yield from _compare_values("weights", f"weights or settings of {name}", digests, "noted")
    classes = [
        evidence.get_class_names(subject.model)
        for evidence, subject in ((first, subjects.first), (second, subjects.second))
    ]
    if list(classes[0]) != list(classes[1]) or abouts[0].get("num_classes") != abouts[1].get("num_classes"):
        yield RunDifference(
            kind="classes",
            what=f"classes of {name}",
            first=_describe_classes(abouts[0], classes[0]),
            second=_describe_classes(abouts[1], classes[1]),
            effect="marked",
        )


def _compare_cells(cells: PairedCells, subjects: SubjectPair) -> Iterator[RunDifference]:
    """Compare the attacks and certificates on two models."""
    name = _format_subjects(subjects)
    for pair in cells.pairs:
        yield from _compare_methods(pair, name)
    for cell in (*cells.only_first, *cells.only_second):
        is_first = any(cell is lonely for lonely in cells.only_first)
        yield RunDifference(
            kind="missing",
            what=f"{cell.label} ({cell.record.threat}) on {name}",
            first=PRESENT if is_first else ABSENT,
            second=ABSENT if is_first else PRESENT,
            effect="marked",
            cells=frozenset({cell.record.key}),
        )


def _compare_methods(pair: CellPair, name: str) -> Iterator[RunDifference]:
    """Compare two cells: hyper-parameters, threat model, surrogate, images and status."""
    one, other = pair.first.record, pair.second.record
    keys, label = frozenset({one.key, other.key}), pair.second.label
    if changes := _list_parameter_changes(one.parameters, other.parameters):
        yield RunDifference(
            kind="attack",
            what=f"hyper-parameters of {label} on {name}",
            first=", ".join(f"{key} {value}" for key, value, _ in changes),
            second=", ".join(f"{key} {value}" for key, _, value in changes),
            effect="marked",
            cells=keys,
        )
    parts = {*one.identity, *other.identity} - _NAMED_PARTS
    if not changes:
        parts |= set(_METHOD_PARTS)
    for part in sorted(parts):
        values = [_shorten_digest(cell.identity.get(part)) for cell in (one, other)]
        yield from _compare_values("attack", f"{part} of {label} on {name}", values, "marked", keys)
    threats = [_shorten_digest(cell.identity.get("threat")) for cell in (one, other)]
    yield from _compare_values("threat model", f"threat model of {label} on {name}", threats, "marked", keys)
    surrogates = [_shorten_digest(cell.identity.get("surrogate")) for cell in (one, other)]
    yield from _compare_values("surrogate", f"surrogate of {label} on {name}", surrogates, "marked", keys)
    counts = [format_count(cell.images, "image") for cell in (one, other)]
    yield from _compare_values("images", f"images of {label} on {name}", counts, "noted", keys)
    statuses = {pair.first.reported_status, pair.second.reported_status}
    if statuses not in ({"done"}, {"skipped"}):
        yield RunDifference(
            kind="unfinished",
            what=f"{label} on {name}",
            first=_describe_status(pair.first),
            second=_describe_status(pair.second),
            effect="marked",
            cells=keys,
        )


def _compare_values(
    kind: DifferenceKind,
    what: str,
    values: Sequence[Any],
    effect: Effect,
    cells: frozenset[str] = frozenset(),
) -> Iterator[RunDifference]:
    """Yield a difference if the two values differ."""
    first, second = values
    if first != second:
        yield RunDifference(
            kind=kind,
            what=what,
            first=_format_value(first),
            second=_format_value(second),
            effect=effect,
            cells=cells,
        )


def _list_parameter_changes(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    """List the hyper-parameters that differ, with both values; the first few."""
    keys = [key for key in dict.fromkeys([*first, *second]) if first.get(key) != second.get(key)]
    return [
        (key, _format_value(first.get(key, ABSENT)), _format_value(second.get(key, ABSENT)))
        for key in keys[:MAX_NAMED_PARAMETERS]
    ]


def _find_description(evidence: Evidence, model: str, defense: str) -> Mapping[str, Any]:
    abouts = (
        about
        for about in evidence.models
        if about.get("id") == model and (about.get("defense") or "none") == defense
    )
    return next(abouts, {})


def _describe_data(data: Mapping[str, Any], digest: str | None) -> str:
    """Describe a data set so that two of them can be told apart."""
    parts = [data.get("name"), data.get("split"), format_count(data.get("n") or 0, "image")]
    known = ", ".join(str(part) for part in parts if part)
    return f"{known} (digest {_shorten_digest(digest) or 'unknown'})"


def _describe_classes(about: Mapping[str, Any], names: Sequence[str]) -> str:
    count = format_count(about.get("num_classes") or len(names), "class")
    shown = [_format_value(name) for name in names[:2]]
    return f"{count} ({', '.join(shown)}, ...)" if shown else count


def _describe_status(cell: CellResult) -> str:
    problem = f" ({cell.problem})" if cell.problem else ""
    return f"{cell.reported_status}{problem}"


def _format_subjects(subjects: SubjectPair) -> str:
    names = dict.fromkeys(isolate_direction(str(one)) for one in (subjects.first, subjects.second))
    return join_in_sentence(list(names))


def _format_value(value: Any) -> str:
    if value is None:
        return ABSENT
    text = str(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[: MAX_VALUE_CHARACTERS - 3]}..."


def _shorten_digest(digest: str | None) -> str | None:
    """Shorten a digest to as many digits as tell two apart; other text stays."""
    is_digest = (
        digest is not None and len(digest) >= 32 and all(sign in "0123456789abcdef" for sign in digest)
    )
    return digest[:_DIGEST_CHARACTERS] if digest is not None and is_digest else digest
