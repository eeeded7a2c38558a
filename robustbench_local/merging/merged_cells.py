"""The cells of a merged run, and where their images come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from robustbench_local.counted_nouns import choose_form, format_count
from robustbench_local.errors import ConfigError
from robustbench_local.merging.run_part import RunPart, list_part_names
from robustbench_local.merging.shard_parts import describe_missing_images, find_held_cells
from robustbench_local.store import CellRecord
from robustbench_local.store.adaptations import read_adaptation

MAX_NAMED_PROBLEMS = 3
"""Overlaps or gaps that one message names."""
_FINAL_STATUSES = frozenset({"done", "skipped", "error", "timeout"})
"""Statuses of a cell that its part has finished with; an error is a result too."""
_REMEDY_GAP = "finish the parts with the command that began them, or add the part that has the rest"


@dataclass(frozen=True, kw_only=True)
class MergedCell:
    """One cell of the merged run."""

    record: CellRecord
    """Its description, with its status and its position in the merged grid."""
    parts: tuple[RunPart, ...]
    """The parts that have its images; several where each has some of them."""


def merge_cells(parts: Sequence[RunPart]) -> list[MergedCell]:
    """Merge the cells of all parts: other cells side by side, other images of one cell into one.

    Args:
        parts: The parts, whose identities have been compared.

    Returns:
        The cells by model, each model's in the order of the parts.

    Raises:
        ConfigError: If two parts have the same image of a cell (overlap), or an image of a cell is in no
            part (gap); the message names them.
    """
    holders: dict[str, list[tuple[RunPart, CellRecord]]] = {}
    for part in parts:
        for record in find_held_cells(part):
            holders.setdefault(record.key, []).append((part, record))
    overlaps = [line for held in holders.values() for line in _list_overlaps(held)]
    if overlaps:
        raise ConfigError(
            f"the parts overlap: {_join_problems(overlaps)}", remedy="merge parts that have different images"
        )
    unfinished = [line for held in holders.values() for line in _list_unfinished(held)]
    if unfinished:
        raise ConfigError(
            f"the shards are not complete: {_join_problems(unfinished)}",
            remedy="finish them with the commands that began them",
        )
    merged = [_merge_cell(held) for held in holders.values()]
    stopped = [
        f"{describe_cell(record)} in {part.name}"
        for part in parts
        for record in part.cells
        if record.status == "stopped"
    ]
    if stopped:
        raise ConfigError(
            f"runs that stopped early cannot be merged: {_join_problems(stopped)}",
            remedy="run the parts on all images, without --until-decided and --precision",
        )
    gaps = [line for cell in merged for line in _list_gaps(cell)]
    if gaps:
        raise ConfigError(f"the parts leave a gap: {_join_problems(gaps)}", remedy=_REMEDY_GAP)
    subjects = list(dict.fromkeys((cell.record.model, cell.record.defense) for cell in merged))
    merged.sort(key=lambda cell: subjects.index((cell.record.model, cell.record.defense)))
    if all(part.shard for part in parts):  # they have one grid, whose order stays
        merged.sort(key=lambda cell: cell.record.position)
    return [
        replace(cell, record=replace(cell.record, position=position)) for position, cell in enumerate(merged)
    ]


def describe_cell(record: CellRecord) -> str:
    """Describe a cell in a message."""
    defense = "" if record.defense == "none" else f" + {record.defense}"
    return f"{record.attack} on {record.model}{defense}"


def _list_overlaps(held: Sequence[tuple[RunPart, CellRecord]]) -> list[str]:
    """List which images of a cell two parts have; adaptations that differ count as well."""
    lines = []
    for index, (part, record) in enumerate(held):
        positions = part.store.read_done_positions(record.key)
        for other, _ in held[:index]:
            shared = sorted(positions & other.store.read_done_positions(record.key))
            if shared:
                more = f" and {len(shared) - 1:,} more" if len(shared) > 1 else ""
                where = f"position {shared[0]}{more} of {describe_cell(record)}"
                verb = choose_form(len(shared), "is", "are")
                lines.append(f"{where} {verb} in both {other.name} and {part.name}")
    return lines


def _merge_cell(held: Sequence[tuple[RunPart, CellRecord]]) -> MergedCell:
    """Merge the descriptions of one cell."""
    _refuse_other_description(held)
    owners = tuple(part for part, record in held if part.store.read_done_positions(record.key))
    count = sum(len(part.store.read_done_positions(record.key)) for part, record in held)
    final = [record for _, record in held if record.status in _FINAL_STATUSES]
    best = min(final, key=lambda record: record.status != "done") if final else held[0][1]
    if not _has_failed(held) and (len(owners) > 1 or best.status == "done"):
        _refuse_other_adaptation(owners, best)
        errors = sum(_count_errors(part, best) for part in owners)
        problem = f"{errors} of {format_count(count, 'image')} could not be evaluated" if errors else None
        complete = count == best.images and not errors
        best = replace(best, status="done" if complete else "partial", error=problem)
    return MergedCell(record=best, parts=owners or (held[0][0],))


def _has_failed(held: Sequence[tuple[RunPart, CellRecord]]) -> bool:
    """Return whether the cell failed wherever it was run, which is its result."""
    return all(record.status in {"error", "timeout"} for _, record in held)


def _count_errors(part: RunPart, record: CellRecord) -> int:
    return part.store.read_outcome_columns(record.key, ("status",))["status"].count("error")


def _list_unfinished(held: Sequence[tuple[RunPart, CellRecord]]) -> list[str]:
    """List the shards that lack images of a cell that did not fail in all of them."""
    if _has_failed(held):
        return []
    return [
        f"{far} of {describe_cell(record)}" + (f" ({record.error})" if record.error else "")
        for part, record in held
        if (far := describe_missing_images(part, record))
    ]


def _refuse_other_description(held: Sequence[tuple[RunPart, CellRecord]]) -> None:
    """Refuse one cell that two parts describe differently."""
    plain = [replace(record, position=0, status="pending", error=None) for _, record in held]
    for (part, _), record in zip(held, plain, strict=True):
        if record != plain[0]:
            names = list_part_names([held[0][0], part])
            raise ConfigError(f"{describe_cell(record)} is described differently in {names}")


def _refuse_other_adaptation(owners: Sequence[RunPart], record: CellRecord) -> None:
    """Refuse images of one cell whose attack was adapted to the model in two ways."""
    adaptations = [read_adaptation(part.store, record.key) for part in owners]
    for part, adaptation in zip(owners, adaptations, strict=True):
        if adaptation != adaptations[0]:
            names = list_part_names([owners[0], part])
            raise ConfigError(
                f"{describe_cell(record)} was adapted to the model differently in {names}",
                remedy="run this cell whole in one part",
            )


def _list_gaps(cell: MergedCell) -> list[str]:
    """List what is missing of a cell; nothing if it is final."""
    record = cell.record
    if record.status in _FINAL_STATUSES:
        return []
    done: set[int] = set()
    for part in cell.parts:
        done |= part.store.read_done_positions(record.key)
    missing = sorted(set(range(record.images)) - done)
    if not missing:
        return []
    count = f"{len(missing):,} of {format_count(record.images, 'image')}"
    verb = choose_form(len(missing), "is", "are")
    return [f"{count} of {describe_cell(record)} {verb} in no part, from position {missing[0]}"]


def _join_problems(lines: Sequence[str]) -> str:
    more = len(lines) - MAX_NAMED_PROBLEMS
    return "; ".join([*lines[:MAX_NAMED_PROBLEMS], *([f"and {more:,} more"] if more > 0 else [])])


def count_verdicts(cells: Sequence[MergedCell]) -> Mapping[str, tuple[int, int]]:
    """Count, for each part by name, its cells and the images that have a verdict in it."""
    counts: dict[str, tuple[int, int]] = {}
    for cell in cells:
        for part in cell.parts:
            images = len(part.store.read_done_positions(cell.record.key))
            before = counts.get(part.name, (0, 0))
            counts[part.name] = (before[0] + 1, before[1] + images)
    return counts
