"""Which models and which cells of two runs belong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from robustbench_local.errors import ConfigError, did_you_mean
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.formatting.text import join_in_sentence

MATCH_OPTION = "--model"
"""Option that says which models belong together, as errors name it."""
MAX_NAMED_MODELS = 6
"""Models of a run that an error names."""


@dataclass(frozen=True, kw_only=True)
class SubjectPair:
    """A model of the first run and the model of the second run that it is compared with."""

    first: EvaluatedModel
    """The model with its defense in the first run."""
    second: EvaluatedModel
    """The model with its defense in the second run."""

    @property
    def is_renamed(self) -> bool:
        """Whether the two have different ids or defenses."""
        return _get_name(self.first) != _get_name(self.second)


@dataclass(frozen=True, kw_only=True)
class CellPair:
    """A cell of the first run and the cell of the second run with the same attack and threat model."""

    first: CellResult
    """The cell of the first run."""
    second: CellResult
    """The cell of the second run."""


@dataclass(frozen=True, kw_only=True)
class PairedCells:
    """The cells of two compared models: those with a counterpart, and the others."""

    pairs: tuple[CellPair, ...]
    """In the order of the second run."""
    only_first: tuple[CellResult, ...]
    """Cells of the first run without a counterpart."""
    only_second: tuple[CellResult, ...]
    """Cells of the second run without a counterpart."""


def pair_subjects(
    first: Evidence, second: Evidence, renamed: Mapping[str, str] | None = None
) -> tuple[SubjectPair, ...]:
    """Pair the models of two runs.

    Models with the same id and defense belong together. Runs of one model each are compared whatever its
    name.

    Args:
        first: The first run.
        second: The second run.
        renamed: Model of the first run -> model of the second run, each by its id, or by ``ID + DEFENSE``;
            only these are compared then. None or empty: by name.

    Returns:
        The pairs, in the order of the second run; never empty.

    Raises:
        ConfigError: If a name of ``renamed`` does not exist, or no models belong together.
    """
    if renamed:
        return tuple(
            SubjectPair(first=_find_subject(first, one), second=_find_subject(second, other))
            for one, other in renamed.items()
        )
    by_name = {_get_name(subject): subject for subject in first.subjects}
    pairs = tuple(
        SubjectPair(first=by_name[_get_name(subject)], second=subject)
        for subject in second.subjects
        if _get_name(subject) in by_name
    )
    if not pairs and len(first.subjects) == len(second.subjects) == 1:
        return (SubjectPair(first=first.subjects[0], second=second.subjects[0]),)
    if not pairs:
        names = [_list_names(evidence.subjects) for evidence in (first, second)]
        raise ConfigError(
            f"the runs have no model in common: {names[0]} in the first, {names[1]} in the second",
            remedy=f"say which belong together: {MATCH_OPTION} FIRST_ID=SECOND_ID",
        )
    return pairs


def pair_cells(first: Evidence, second: Evidence, subjects: SubjectPair) -> PairedCells:
    """Pair the cells of two models: by attack, or by the threat model where only hyper-parameters differ."""
    left = [cell for cell in first.cells if cell.subject == subjects.first and not cell.is_self_transfer]
    right = [cell for cell in second.cells if cell.subject == subjects.second and not cell.is_self_transfer]
    pairs: list[CellPair] = []
    for get_key in (_get_attack_key, _get_card_key):
        matched = _match_cells(left, right, get_key)
        pairs += matched
        left = [cell for cell in left if not any(cell is pair.first for pair in matched)]
        right = [cell for cell in right if not any(cell is pair.second for pair in matched)]
    order = {id(cell): position for position, cell in enumerate(second.cells)}
    pairs.sort(key=lambda pair: order[id(pair.second)])
    return PairedCells(pairs=tuple(pairs), only_first=tuple(left), only_second=tuple(right))


def _match_cells(
    left: Sequence[CellResult], right: Sequence[CellResult], get_key: Callable[[CellResult], Hashable]
) -> list[CellPair]:
    """Match cells whose key occurs once on each side."""
    counts = [Counter(map(get_key, cells)) for cells in (left, right)]
    by_key = {get_key(cell): cell for cell in left if counts[0][get_key(cell)] == 1}
    return [
        CellPair(first=by_key[key], second=cell)
        for cell in right
        if (key := get_key(cell)) in by_key and counts[1][key] == 1
    ]


def _get_threat_key(cell: CellResult) -> tuple[Hashable, ...]:
    record = cell.record
    return (cell.threat, record.goal, record.targets, record.knowledge, record.surrogate, record.measure)


def _get_attack_key(cell: CellResult) -> Hashable:
    return (cell.record.attack, _get_threat_key(cell))


def _get_card_key(cell: CellResult) -> Hashable:
    return (cell.record.card, _get_threat_key(cell))


def _get_name(subject: EvaluatedModel) -> tuple[str, str]:
    return subject.model, subject.defense


def _format_name(subject: EvaluatedModel) -> str:
    return subject.model if subject.defense == "none" else f"{subject.model} + {subject.defense}"


def _list_names(subjects: Sequence[EvaluatedModel]) -> str:
    names = [repr(_format_name(subject)) for subject in subjects[:MAX_NAMED_MODELS]]
    more = len(subjects) - len(names)
    return join_in_sentence([*names, f"{more} more"] if more else names) or "none"


def _find_subject(evidence: Evidence, name: str) -> EvaluatedModel:
    """Find a model by its id, or by its id and defense."""
    by_name = {_format_name(subject): subject for subject in evidence.subjects}
    defended = [subject for subject in evidence.subjects if subject.model == name]
    if name in by_name:
        return by_name[name]
    if len(defended) == 1:
        return defended[0]
    what = f"the run has no model {name!r}"
    if defended:
        what = f"the run has {name!r} with several defenses: {_list_names(defended)}"
    raise ConfigError(what, where=MATCH_OPTION, remedy=did_you_mean(name, by_name))
