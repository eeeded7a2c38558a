"""Shards of a run: all of them, each once, of the same number, and each complete."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from robustbench_local.counted_nouns import choose_form, format_count
from robustbench_local.errors import ConfigError
from robustbench_local.merging.run_part import RunPart
from robustbench_local.store import CellRecord
from robustbench_local.store.shard_record import ShardRecord

MAX_NAMED_RANGES = 6
"""Ranges of missing shards that one message names."""


def check_shards(parts: Sequence[RunPart]) -> None:
    """Refuse parts that are shards, unless they are all shards of one run.

    Args:
        parts: The parts, whose identities have been compared.

    Raises:
        ConfigError: If a shard is missing or there twice, or the parts are no shards of one number; the
            message names them.
    """
    shards = [(part, part.shard.shard) for part in parts if part.shard is not None]
    if not shards:
        return
    first, known = shards[0]
    for part in parts:
        if part.shard is None:
            raise ConfigError(
                f"{first.name} is {known.title}, and {part.name} has all images",
                remedy="merge the shards of a run first, then the merged run with others",
            )
        if part.shard.shard.count != known.count:
            raise ConfigError(
                f"{first.name} is {known.title}, and {part.name} is {part.shard.shard.title}",
                remedy="merge shards of one number",
            )
    holders: dict[int, RunPart] = {}
    for part, shard in shards:
        if shard.index in holders:
            raise ConfigError(
                f"{holders[shard.index].name} and {part.name} are both {shard.title}",
                remedy="name each shard once",
            )
        holders[shard.index] = part
    missing = [index for index in range(1, known.count + 1) if index not in holders]
    if missing:
        verb = choose_form(len(missing), "shard {} of {} is", "shards {} of {} are")
        raise ConfigError(
            f"{verb.format(_format_ranges(missing), f'{known.count:,}')} missing",
            remedy="name the run directories of all shards",
        )


def find_held_cells(part: RunPart) -> Iterator[CellRecord]:
    """Find the cells of a part; a shard leaves out those whose images are all in other shards."""
    for record in part.cells:
        if part.shard is None or not record.images or _count_own_images(part.shard, record):
            yield record


def describe_missing_images(part: RunPart, record: CellRecord) -> str:
    """Describe how far a shard is with a cell of which it lacks images; empty if it lacks none."""
    if part.shard is None or record.status == "skipped":
        return ""
    own, done = _count_own_images(part.shard, record), len(part.store.read_done_positions(record.key))
    if done >= own:
        return ""
    return f"{part.name}, {part.shard.shard.title}, has {done:,} of {format_count(own, 'image')}"


def _count_own_images(shard: ShardRecord, record: CellRecord) -> int:
    return shard.cells.get(record.key, record.images)


def _format_ranges(numbers: Sequence[int]) -> str:
    """Format ascending numbers: ``2, 4 to 7 and 9``."""
    runs = [
        [number for _, number in group]
        for _, group in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    ]
    named = [f"{run[0]:,}" if len(run) == 1 else f"{run[0]:,} to {run[-1]:,}" for run in runs]
    if len(named) > MAX_NAMED_RANGES:
        return f"{', '.join(named[:MAX_NAMED_RANGES])} and more"
    return " and ".join([", ".join(named[:-1]), named[-1]]) if len(named) > 1 else named[0]
