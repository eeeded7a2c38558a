"""The positions of each cell that a shard runs: every image in one shard, the classes even in all.

A whole run and its shards have the same cells with the same keys over the same data. Verdicts depend on no
other image of a batch, so that a position gives the same outcome wherever it is run. Where it does depend on
others, they stay together: the fixed groups of an attack that draws for a whole group, and all images of a
model whose answers depend on its batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from robustbench_local.classifier.wrapper import find_innermost
from robustbench_local.counted_nouns import format_count
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.image_order import order_images
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.planning.plan import CellSpec, Plan
from robustbench_local.shard import Shard
from robustbench_local.store.run_folder import SHARD_PART
from robustbench_local.store.shard_record import ShardRecord


def assign_shard(plan: Plan, shard: Shard) -> Plan:
    """Confine a plan to the images of a shard; keys and data stay those of the whole run.

    Args:
        plan: The plan of the whole run.
        shard: The shard.

    Returns:
        The same cells with ``own_positions``; the identity and the grid file name the shard.

    Raises:
        ConfigError: If there are more shards than images.
    """
    if shard.count > len(plan.data):
        raise ConfigError(
            f"{format_count(shard.count, 'shard')} for {format_count(len(plan.data), 'image')}",
            where="--shard",
            remedy=f"give {len(plan.data)} or fewer",
        )
    own_images = frozenset(select_own_images(plan.data, plan.seed, shard))
    cells = tuple(
        replace(cell, own_positions=choose_own_positions(cell, number, own_images, shard))
        for number, cell in enumerate(plan.cells)
    )
    plan = replace(plan, cells=cells, shard=shard, identity=plan.identity | {SHARD_PART: str(shard)})
    record = build_shard_record(plan)
    title = f"# {record.title if record else shard.title}; rbl merge makes one run of all {shard.count:,}\n"
    return replace(plan, resolved_yaml=title + plan.resolved_yaml)


def select_own_images(data: Dataset, seed: int, shard: Shard) -> list[int]:
    """Select the images of a shard: a piece of an order in which the classes are spread evenly.

    In such an order every piece has its share of each class, while every n-th image may be of one class.

    Args:
        data: All images.
        seed: The run's seed, on which the order depends.
        shard: The shard.

    Returns:
        Ascending positions in the data; the numbers of images of two shards differ by one at most.
    """
    order = order_images(data.ids, data.labels.tolist(), seed=seed)
    first, last = (len(order) * index // shard.count for index in (shard.index - 1, shard.index))
    return sorted(order[first:last])


def choose_own_positions(
    cell: CellSpec, number: int, own_images: frozenset[int], shard: Shard
) -> tuple[int, ...]:
    """Choose the positions of a cell that a shard runs.

    Args:
        cell: The cell.
        number: Its place in the grid; fixed groups of other cells begin with another shard.
        own_images: Positions of the shard's images in the data. An image is in the same shard in every cell,
            so that a certificate that spares it attacks is there too.
        shard: The shard.

    Returns:
        Ascending positions in the cell; none if its images belong together in another shard.
    """
    groups = list(_list_fixed_groups(cell))
    if not groups:
        return tuple(position for position, row in enumerate(cell.positions.tolist()) if row in own_images)
    turn = (shard.index - 1 - number) % shard.count
    return tuple(sorted(position for group in groups[turn :: shard.count] for position in group))


def _list_fixed_groups(cell: CellSpec) -> Iterator[Sequence[int]]:
    """List the groups of positions whose verdicts depend on each other; none where each stands alone."""
    if cell.problem is not None or cell.skip_reason:
        return
    models = (cell.subject.classifier, cell.queried_subject.classifier)
    if any((find_innermost(model).settings.fixed_batch_size or 1) > 1 for model in models):
        yield range(len(cell.positions))
        return
    job = cell.make_job()
    if not job.is_divisible:
        yield from job.build_queue(1, set())


def build_shard_record(plan: Plan, keys: Mapping[str, str] | None = None) -> ShardRecord | None:
    """Build the stored record of a plan's shard; None for a whole run.

    Args:
        plan: The plan.
        keys: The stored key of each cell, by its key in the plan, where they differ.
    """
    if plan.shard is None:
        return None
    own = len(select_own_images(plan.data, plan.seed, plan.shard))
    cells = {(keys or {}).get(cell.record.key, cell.record.key): cell.image_count for cell in plan.cells}
    return ShardRecord(shard=plan.shard, images=own, of=len(plan.data), cells=cells)
