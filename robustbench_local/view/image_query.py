"""Filters and page of the images of a run, as they stand in an address."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from robustbench_local.view.run_images import (
    OUTCOME_TEXTS,
    CellImages,
    CellOutcome,
    OutcomeWord,
    RunImages,
)
from robustbench_local.view.run_query import parse_page

IMAGES_PER_PAGE = 48
_MAX_TEXT = 300
_RANKS: tuple[OutcomeWord, ...] = (
    "success",
    "misclassified",
    "no verdict",
    "robust",
    "not certified",
    "certified",
)
"""Over several attacks, the first of these that occurs is the outcome of the image."""


@dataclass(frozen=True, kw_only=True)
class ImageQuery:
    """Which images are shown."""

    model: str = ""
    """Label of the model; empty for the first one."""
    cell: str = ""
    """Id of an attack or certificate on it; empty for all attacks together."""
    label: str = ""
    """Index of the true class; empty for all."""
    outcome: str = ""
    """An outcome of `OUTCOME_TEXTS`; empty for all."""
    text: str = ""
    """Part of the image's id."""
    reads_data: bool = False
    """Whether images that the run does not keep are read from its data."""
    page: int = 1
    """From 1."""

    def format_query(self, **changes: str | int) -> str:
        """Return the query of an address with these filters, changed; what is as by default is left out."""
        values: dict[str, str | int] = {
            "model": self.model,
            "cell": self.cell,
            "class": self.label,
            "outcome": self.outcome,
            "q": self.text,
            "data": "read" if self.reads_data else "",
            "page": self.page,
        }
        values |= changes
        return urlencode({key: value for key, value in values.items() if value not in {"", 1}})


@dataclass(frozen=True, kw_only=True)
class ShownImage:
    """An image of the list."""

    image: str
    """Its id."""
    deciding: CellOutcome
    """The cell that decides its outcome: the chosen one, or the first that succeeded."""
    others: int
    """Number of further attacks that succeeded."""


def parse_image_query(given: Mapping[str, str], images: RunImages) -> ImageQuery:
    """Parse the query of an address; what does not exist in the run is left out."""
    labels = [str(subject) for subject in images.subjects]
    model = given.get("model", "")
    if model not in labels:
        model = labels[0] if labels else ""
    cell = images.find_cell(given.get("cell", ""))
    if cell is not None:
        model = str(cell.subject)
    label = given.get("class", "")
    outcome = given.get("outcome", "")
    return ImageQuery(
        model=model,
        cell="" if cell is None else cell.id,
        label=label if label in {str(index) for index, _ in images.classes} else "",
        outcome=outcome if outcome in OUTCOME_TEXTS else "",
        text=given.get("q", "").strip()[:_MAX_TEXT],
        reads_data=given.get("data", "") == "read",
        page=parse_page(given.get("page", "1")),
    )


def select_cells(images: RunImages, query: ImageQuery) -> list[CellImages]:
    """Select the cells that decide: the chosen one, or all attacks on the model; certificates without any."""
    own = [cell for cell in images.cells if str(cell.subject) == query.model]
    if query.cell:
        return [cell for cell in own if cell.id == query.cell]
    attacks = [cell for cell in own if cell.record.measure != "certificate"]
    return attacks or own


def select_images(images: RunImages, query: ImageQuery) -> list[ShownImage]:
    """Select the images of a search, in the order of the cells."""
    cells = select_cells(images, query)
    shown = (_judge_image(images, image, cells) for image in _list_ids(cells))
    return [one for one in shown if one is not None and _is_selected(one, query)]


def _list_ids(cells: Sequence[CellImages]) -> Iterator[str]:
    return iter(dict.fromkeys(image for cell in cells for image in cell.index_by_image))


def _judge_image(images: RunImages, image: str, cells: Sequence[CellImages]) -> ShownImage | None:
    found = list(images.iterate_outcomes(image, cells))
    if not found:
        return None
    deciding = min(found, key=lambda one: _RANKS.index(one.outcome.word))
    successes = sum(one.outcome.word == "success" for one in found)
    return ShownImage(
        image=image,
        deciding=deciding,
        others=max(successes - 1, 0) if deciding.outcome.word == "success" else 0,
    )


def _is_selected(shown: ShownImage, query: ImageQuery) -> bool:
    outcome = shown.deciding.outcome
    if query.label and str(outcome.label) != query.label:
        return False
    if query.outcome and outcome.word != query.outcome:
        return False
    return query.text.casefold() in shown.image.casefold()
