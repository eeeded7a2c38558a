"""Pictures of images that changed sides between two runs, as far as their adversarial examples are stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from robustbench_local.errors import DamagedError, InvariantError
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.changed_images import ChangedImage
from robustbench_local.reports.analysis.compared_run import ComparedRun
from robustbench_local.reports.analysis.example_images import (
    ExampleImage,
    FloatImage,
    build_example_image,
    choose_amplification,
    convert_to_rgb,
)
from robustbench_local.store import OutcomeRecord, RunStore

_Pair = tuple[FloatImage, FloatImage]


@dataclass(frozen=True, kw_only=True)
class ChangedPicture:
    """One image that changed sides, in pictures."""

    changed: ChangedImage
    """The image."""
    example: ExampleImage
    """Its clean and its adversarial form in the run in which the attack succeeded."""
    attack_label: str
    """Label of the attack that the adversarial example is from."""
    amplification: int
    """Factor of the change in the picture of the difference."""


def build_changed_pictures(
    images: Sequence[ChangedImage],
    first: tuple[ComparedRun, RunStore],
    second: tuple[ComparedRun, RunStore],
    limit: int,
) -> list[ChangedPicture]:
    """Build pictures of the first images of each kind, lost and won, whose adversarial examples are stored.

    Args:
        images: The images that changed sides.
        first: The baseline, and its open store.
        second: The other run, and its open store.
        limit: Largest number of pictures; half of them for each kind if both have enough.
    """
    lost = list(_build_side([image for image in images if image.is_lost], *second, limit))
    won = list(_build_side([image for image in images if not image.is_lost], *first, limit))
    half = (limit + 1) // 2
    shown_lost = lost[: max(half, limit - len(won))]
    return [*shown_lost, *won[: limit - len(shown_lost)]]


def _build_side(
    images: Sequence[ChangedImage], run: ComparedRun, store: RunStore, limit: int
) -> Iterator[ChangedPicture]:
    """Build the pictures of images that were attacked in one run."""
    cell_by_key = {cell.record.key: cell for cell in run.measured.cells}
    stored: dict[str, dict[str, tuple[OutcomeRecord, _Pair]]] = {}
    count = 0
    for image in images:
        for key in image.attacked_side.cells:
            if key not in stored:
                stored[key] = _load_pairs(store, run, cell_by_key[key])
        keys = [key for key in image.attacked_side.cells if image.image in stored[key]]
        if not keys or count == limit:
            continue
        count, key = count + 1, keys[0]
        outcome, pair = stored[key][image.image]
        factor = choose_amplification([pair])
        yield ChangedPicture(
            changed=image,
            example=build_example_image(run.evidence, cell_by_key[key], outcome, pair, factor),
            attack_label=cell_by_key[key].label,
            amplification=factor,
        )


def _load_pairs(
    store: RunStore, run: ComparedRun, cell: CellResult
) -> dict[str, tuple[OutcomeRecord, _Pair]]:
    """Load the stored images of a cell by id; none if they are damaged, or the cell stores none."""
    key = cell.record.key
    if key in run.evidence.damaged_images:
        return {}
    try:
        arrays = store.load_arrays(key)
    except (DamagedError, InvariantError):
        return {}
    if not {"positions", "original", "adversarial"} <= arrays.keys():
        return {}
    outcomes = {row.position: row for row in store.read_outcomes_at(key, arrays["positions"])}
    return {
        outcomes[position].image: (
            outcomes[position],
            (convert_to_rgb(arrays["original"][index]), convert_to_rgb(arrays["adversarial"][index])),
        )
        for index, position in enumerate(map(int, arrays["positions"]))
        if position in outcomes
    }
