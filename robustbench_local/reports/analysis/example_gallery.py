"""The images whose adversarial examples are shown: each with its outcome under every model and attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.example_images import (
    MAX_SIDE_PIXELS,
    ExampleImage,
    FloatImage,
    build_example_image,
    choose_amplification,
    convert_to_rgb,
    select_example_cells,
)
from robustbench_local.reports.formatting.text import redact_private_data
from robustbench_local.store import OutcomeRecord, RunStore

MAX_ROWS = 8
"""Images that are shown."""
MAX_CELLS = 40
"""Models and attacks under which each image is shown."""
MAX_PICTURE_PIXELS = 1_900_000
"""Pixels of all pictures together, so that the page stays below 10 MB even if they do not compress."""
STORED_EXAMPLES = 8
"""Adversarial examples of a cell, the first ones, that a run stores by default."""
ROW_SELECTION_RULE = (
    "for each model and attack the first image, in the order of the data, on which it succeeded, and further "
    "images in that order while there is room"
)
"""The rule by which images are chosen, independent of their appearance."""

ExampleOutcome = Literal["attack succeeded", "robust", "misclassified clean", "no verdict"]
EXAMPLE_OUTCOMES: tuple[ExampleOutcome, ...] = (
    "attack succeeded",
    "robust",
    "misclassified clean",
    "no verdict",
)
_Pair = tuple[FloatImage, FloatImage]


@dataclass(frozen=True, kw_only=True)
class ExampleTile:
    """One image under one attack on one model."""

    image_id: str
    """Id of the image as stored; ``ExampleRow.image`` is the one to show."""
    cell: CellResult
    """The attack on the model."""
    outcome: ExampleOutcome
    """What became of the image."""
    prediction: str
    """Name of the class predicted in the end; empty if it is not known."""
    example: ExampleImage | None
    """The adversarial example, if the run stored it."""
    amplification: int
    """Factor of the change in the difference image; 0 without an example."""


@dataclass(frozen=True, kw_only=True)
class ExampleRow:
    """One image with its outcome under every model and attack."""

    number: int
    """Number of the row, from 1."""
    image: str
    """Id of the image."""
    label: int
    """Index of its true class."""
    label_name: str
    """Name of its true class."""
    clean_image: FloatImage
    """(H, W, 3), [0, 1]."""
    tiles: tuple[ExampleTile, ...]
    """In the order of the grid."""


@dataclass(frozen=True, kw_only=True)
class ExampleGallery:
    """The shown images."""

    rows: tuple[ExampleRow, ...]
    """In the order of the data."""
    candidate_count: int
    """Images on which some shown attack succeeded."""
    cell_count: int
    """Cells that could be shown; of more than ``MAX_CELLS`` the first ones are."""

    def __bool__(self) -> bool:
        return bool(self.rows)

    @property
    def subjects(self) -> tuple[EvaluatedModel, ...]:
        """Models of the tiles, each once."""
        return tuple(dict.fromkeys(tile.cell.subject for row in self.rows for tile in row.tiles))

    @property
    def attacks(self) -> Mapping[str, str]:
        """Identifier of each attack of the tiles -> its label."""
        return {tile.cell.record.attack: tile.cell.label for row in self.rows for tile in row.tiles}

    @property
    def classes(self) -> Mapping[int, str]:
        """Index of each true class -> its name, by index."""
        return dict(sorted({row.label: row.label_name for row in self.rows}.items()))

    @property
    def outcomes(self) -> tuple[ExampleOutcome, ...]:
        """Outcomes that occur."""
        present = {tile.outcome for row in self.rows for tile in row.tiles}
        return tuple(outcome for outcome in EXAMPLE_OUTCOMES if outcome in present)


def get_example_gallery(store: RunStore, evidence: Evidence) -> ExampleGallery:
    """Return the gallery of a run, which is built once for all sections of a report."""
    gallery: ExampleGallery | None = evidence.derived.get("example gallery")
    if gallery is None:
        gallery = evidence.derived["example gallery"] = build_example_gallery(store, evidence)
    return gallery


def build_example_gallery(store: RunStore, evidence: Evidence) -> ExampleGallery:
    """Choose the images and read their stored adversarial examples."""
    cells = [cell for cell in select_example_cells(evidence) if cell.is_done]
    shown = cells[:MAX_CELLS]
    images = choose_images(shown, _get_side(evidence))
    pairs = {cell.record.key: _load_pairs(store, evidence, cell, set(images)) for cell in shown}
    rows = [row for image in images if (row := _build_row(evidence, shown, pairs, image)) is not None]
    return ExampleGallery(
        rows=tuple(replace(row, number=number) for number, row in enumerate(rows, start=1)),
        candidate_count=len({image for cell in shown for image in _list_broken(cell)}),
        cell_count=len(cells),
    )


def choose_images(cells: Sequence[CellResult], side_pixels: int) -> list[str]:
    """Choose the images to show by ``ROW_SELECTION_RULE``, in the order of the data.

    Args:
        cells: The cells that are shown.
        side_pixels: Longer side of a picture.
    """
    largest_first = sorted(cells, key=lambda cell: -len(cell.verdicts))
    order = {
        image: place
        for place, image in enumerate(
            dict.fromkeys(image for cell in largest_first for image in cell.verdicts)
        )
    }
    broken = {cell.record.key: _list_broken(cell) for cell in cells}
    firsts = dict.fromkeys(images[0] for images in broken.values() if images)
    others = sorted({image for images in broken.values() for image in images}, key=order.__getitem__)
    stored = [set(images[:STORED_EXAMPLES]) for images in broken.values()]
    chosen: list[str] = []
    room = MAX_PICTURE_PIXELS // max(side_pixels, 1) ** 2
    for image in dict.fromkeys([*sorted(firsts, key=order.__getitem__), *others]):
        pictures = 1 + 2 * sum(image in images for images in stored)
        if pictures > 1 and len(chosen) < MAX_ROWS and (pictures <= room or not chosen):
            chosen.append(image)
            room -= pictures
    return sorted(chosen, key=order.__getitem__)


def _list_broken(cell: CellResult) -> list[str]:
    return [image for image, verdict in cell.verdicts.items() if verdict.broken]


def _get_side(evidence: Evidence) -> int:
    shape = evidence.data.get("image_shape") or ()
    return min(MAX_SIDE_PIXELS, max(map(int, shape[-2:]), default=MAX_SIDE_PIXELS))


def _load_pairs(
    store: RunStore, evidence: Evidence, cell: CellResult, images: set[str]
) -> dict[str, tuple[OutcomeRecord, _Pair]]:
    """Load the stored clean and adversarial forms of some images of a cell; none if they are damaged."""
    key = cell.record.key
    arrays = {} if key in evidence.damaged_images else store.load_arrays(key)
    if not {"positions", "original", "adversarial"} <= arrays.keys():
        return {}
    positions = [int(position) for position in arrays["positions"]]
    outcomes = {row.position: row for row in store.read_outcomes_at(key, positions)}
    return {
        outcomes[position].image: (
            outcomes[position],
            (convert_to_rgb(arrays["original"][index]), convert_to_rgb(arrays["adversarial"][index])),
        )
        for index, position in enumerate(positions)
        if position in outcomes and outcomes[position].image in images
    }


def _build_row(
    evidence: Evidence,
    cells: Sequence[CellResult],
    pairs: Mapping[str, Mapping[str, tuple[OutcomeRecord, _Pair]]],
    image: str,
) -> ExampleRow | None:
    """Build the row of an image; None if no adversarial example of it is stored."""
    stored = [pairs[cell.record.key][image] for cell in cells if image in pairs[cell.record.key]]
    if not stored:
        return None
    outcome, (clean, _) = stored[0]
    model = next(cell.record.model for cell in cells if image in pairs[cell.record.key])
    return ExampleRow(
        number=0,
        image=redact_private_data(image),
        label=outcome.label,
        label_name=evidence.get_class_name(model, outcome.label),
        clean_image=clean,
        tiles=tuple(
            _build_tile(evidence, cell, image, pairs[cell.record.key].get(image))
            for cell in cells
            if image in cell.verdicts
        ),
    )


def _build_tile(
    evidence: Evidence, cell: CellResult, image: str, stored: tuple[OutcomeRecord, _Pair] | None
) -> ExampleTile:
    prediction = cell.predictions.get(image)
    factor = choose_amplification([stored[1]]) if stored else 0
    return ExampleTile(
        image_id=image,
        cell=cell,
        outcome=_find_outcome(cell, image),
        prediction=evidence.get_class_name(cell.record.model, prediction.final) if prediction else "",
        example=build_example_image(evidence, cell, stored[0], stored[1], factor) if stored else None,
        amplification=factor,
    )


def _find_outcome(cell: CellResult, image: str) -> ExampleOutcome:
    verdict = cell.verdicts[image]
    if verdict.broken:
        return "attack succeeded"
    if not verdict.clean_correct:
        return "misclassified clean"
    return "robust" if verdict.robust else "no verdict"
