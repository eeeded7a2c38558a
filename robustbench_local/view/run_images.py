"""All images of a run with the outcome of every attack and certificate on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from robustbench_local.errors import RobustbenchError
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.formatting.text import redact_private_data
from robustbench_local.store import CellRecord, OutcomeRecord, RunStore
from robustbench_local.store.image_rows import StoredRow, list_stored_rows
from robustbench_local.store.outcome_columns import OutcomeColumns
from robustbench_local.store.run_labels import LABELS_KEY, RunLabels

OutcomeWord = Literal["success", "robust", "misclassified", "certified", "not certified", "no verdict"]
OUTCOME_TEXTS: Mapping[OutcomeWord, str] = {
    "success": "successful attack",
    "robust": "robust",
    "misclassified": "misclassified clean",
    "certified": "certified",
    "not certified": "not certified",
    "no verdict": "no verdict",
}
"""What happened to an image, in words."""
_COLUMNS = (
    "position",
    "image",
    "label",
    "clean_prediction",
    "adversarial_prediction",
    "clean_correct",
    "broken",
    "status",
    "certified",
)
_KEY_DIGITS = 16
_NO_VERDICT = frozenset({"error", "void"})


class ImageOutcome(NamedTuple):
    """What happened to an image in a cell."""

    word: OutcomeWord
    """The outcome."""
    label: int
    """True class."""
    clean_prediction: int | None
    """Predicted class of the clean image."""
    adversarial_prediction: int | None
    """Predicted class of the candidate."""
    position: int
    """Position in the cell."""


class CellImages:
    """The images of one cell.

    Args:
        record: The cell.
        label: Label of its attack or certificate.
        subject: The model with its defense.
        columns: Its outcomes.
    """

    def __init__(
        self, record: CellRecord, label: str, subject: EvaluatedModel, columns: OutcomeColumns
    ) -> None:
        self.record, self.label, self.subject, self._columns = record, label, subject, columns

    @property
    def id(self) -> str:
        """Name in addresses: the first digits of its key."""
        return self.record.key[:_KEY_DIGITS]

    @cached_property
    def index_by_image(self) -> Mapping[str, int]:
        """Id of an image -> its row."""
        return {image: row for row, image in enumerate(self._columns["image"])}

    def get_outcome(self, image: str) -> ImageOutcome | None:
        """Return the outcome of an image; None if the cell does not have it."""
        row = self.index_by_image.get(image)
        if row is None:
            return None
        columns = self._columns
        return ImageOutcome(
            self._name_outcome(row),
            columns["label"][row],
            columns["clean_prediction"][row],
            columns["adversarial_prediction"][row],
            columns["position"][row],
        )

    def _name_outcome(self, row: int) -> OutcomeWord:
        columns = self._columns
        if columns["status"][row] in _NO_VERDICT:
            return "no verdict"
        certified = columns["certified"][row]
        if certified is not None:
            return "certified" if certified else "not certified"
        if not columns["clean_correct"][row]:
            return "misclassified"
        return "success" if columns["broken"][row] else "robust"


class CellOutcome(NamedTuple):
    """An image in a cell."""

    cell: CellImages
    """The cell."""
    outcome: ImageOutcome
    """What happened to the image."""


@dataclass(frozen=True, kw_only=True)
class ImageDetail:
    """An image in a cell with everything that its outcome holds."""

    cell: CellImages
    """The cell."""
    outcome: ImageOutcome
    """What happened, in a word."""
    record: OutcomeRecord
    """The outcome as stored."""
    is_stored: bool
    """Whether the run keeps its pictures."""
    problem: str
    """Why they cannot be shown; empty if they can, or if they are not kept."""


class RunImages:
    """The images of a run.

    Args:
        store: The open run.

    Raises:
        DamagedError: If the run is damaged.
    """

    def __init__(self, store: RunStore) -> None:
        self.store = store
        self.labels = RunLabels.from_metadata(redact_private_data(store.read_meta(LABELS_KEY)))
        self._names = Evidence(
            cells=(),
            worst_cases=(),
            data=redact_private_data(store.read_meta("data") or {}),
            models=redact_private_data(store.read_meta("models") or []),
            labels=self.labels,
        )
        self.cells = [self._read_cell(record) for record in store.read_cells()]
        self._stored: dict[str, Mapping[int, StoredRow]] = {}

    @property
    def subjects(self) -> list[EvaluatedModel]:
        """The models with their defenses, in the order of the grid."""
        return list(dict.fromkeys(cell.subject for cell in self.cells))

    @cached_property
    def image_ids(self) -> list[str]:
        """Ids of all images, in the order of the cells."""
        return list(dict.fromkeys(image for cell in self.cells for image in cell.index_by_image))

    @cached_property
    def classes(self) -> list[tuple[int, str]]:
        """Index and name of the classes that images have, by index."""
        labels = {
            outcome.label
            for cell in self.cells
            for image in cell.index_by_image
            if (outcome := cell.get_outcome(image)) is not None
        }
        model = self.cells[0].record.model if self.cells else ""
        return [(label, self.get_class_name(model, label)) for label in sorted(labels)]

    def get_class_name(self, model: str, index: int | None) -> str:
        """Return the name of a class of a model."""
        return self._names.get_class_name(model, index)

    def find_cell(self, cell_id: str) -> CellImages | None:
        """Return the cell with this name in addresses, or None."""
        return next((cell for cell in self.cells if cell.id == cell_id), None)

    def iterate_outcomes(self, image: str, cells: Sequence[CellImages]) -> Iterator[CellOutcome]:
        """Iterate over the cells that have an image, with its outcome."""
        for cell in cells:
            outcome = cell.get_outcome(image)
            if outcome is not None:
                yield CellOutcome(cell, outcome)

    def read_detail(self, image: str, cell: CellImages) -> ImageDetail | None:
        """Read everything about an image in a cell; None if the cell does not have it."""
        outcome = cell.get_outcome(image)
        if outcome is None:
            return None
        rows = self.store.read_outcomes_at(cell.record.key, [outcome.position])
        if not rows:
            return None
        is_stored, problem = False, ""
        try:
            is_stored = outcome.position in self.list_stored(cell)
        except RobustbenchError as error:
            problem = error.what
        return ImageDetail(cell=cell, outcome=outcome, record=rows[0], is_stored=is_stored, problem=problem)

    def list_stored(self, cell: CellImages) -> Mapping[int, StoredRow]:
        """Return the positions whose pictures a cell keeps, with their place.

        Raises:
            DamagedError: If a file is damaged.
            RefusedError: If a file is not inside the run directory.
        """
        key = cell.record.key
        if key not in self._stored:
            self._stored[key] = list_stored_rows(self.store.directory, key, self.store.list_array_chunks(key))
        return self._stored[key]

    def _read_cell(self, record: CellRecord) -> CellImages:
        subject = EvaluatedModel(
            model=record.model,
            defense=record.defense,
            label=str(redact_private_data(self.labels.get_model_label(record.model, record.defense))),
        )
        label = str(redact_private_data(self.labels.get_attack_label(record.attack)))
        return CellImages(record, label, subject, self.store.read_outcome_columns(record.key, _COLUMNS))
