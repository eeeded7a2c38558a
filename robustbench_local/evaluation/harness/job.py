"""A job: the work of one cell on a list of images, and the resulting outcomes, batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustbench_local.classifier import Classifier
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.stored_images import StoredImages
from robustbench_local.errors import RobustbenchError
from robustbench_local.evaluation.harness.answer_agreement import AgreementCounts
from robustbench_local.store.records import OutcomeRecord, ViewPredictionsRecord, ViewRecord
from robustbench_local.threats.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class OutcomeBatch:
    """The outcomes of some images, with their verified candidates."""

    outcomes: tuple[OutcomeRecord, ...]
    """One per image, in the order of their positions."""
    candidates: Tensor
    """(N, C, H, W), on the CPU; the original where there was no valid candidate."""
    view_predictions: tuple[ViewPredictionsRecord, ...] = ()
    """The predictions of every view of these images, if the job uses views."""
    views: tuple[ViewRecord, ...] = ()
    """Those views."""
    report_images: Mapping[int, Mapping[str, npt.NDArray[np.generic]]] = field(default_factory=dict)
    """Images for the report besides the candidate, by position and name."""
    agreement: AgreementCounts = field(default_factory=AgreementCounts)
    """Whether the attacked model and a fresh copy of it agreed."""


class AttackFailedError(Exception):
    """An attack raised on a single image whose clean prediction is known.

    Args:
        outcome: The record of the image: its clean prediction, the passes spent, and an error.
        cause: The exception that was raised.
    """

    def __init__(self, outcome: OutcomeRecord, cause: Exception) -> None:
        super().__init__(outcome, cause)  # both, for another process makes the same error from them
        self.outcome, self.cause = outcome, cause


def divide_seconds(batch: OutcomeBatch, workers: int) -> OutcomeBatch:
    """Divide the wall time of the images by the number of workers that ran in parallel."""
    outcomes = tuple(replace(row, seconds=row.seconds / workers) for row in batch.outcomes)
    return replace(batch, outcomes=outcomes)


def merge_batches(batches: Sequence[OutcomeBatch]) -> OutcomeBatch:
    """Merge batches into one, in the order of their positions.

    Args:
        batches: At least one; no image may be in two of them.
    """
    outcomes = [row for batch in batches for row in batch.outcomes]
    order = sorted(range(len(outcomes)), key=lambda row: outcomes[row].position)
    candidates = torch.cat([batch.candidates for batch in batches])
    return OutcomeBatch(
        outcomes=tuple(outcomes[row] for row in order),
        candidates=candidates[order],
        view_predictions=tuple(record for batch in batches for record in batch.view_predictions),
        views=tuple(view for batch in batches for view in batch.views),
        report_images={
            position: arrays for batch in batches for position, arrays in batch.report_images.items()
        },
        agreement=sum((batch.agreement for batch in batches), AgreementCounts()),
    )


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """The work of one cell: everything that decides its verdicts, and nothing else."""

    key: str
    """The cell's key, copied into its outcomes."""
    classifier: Classifier
    """The classifier under test."""
    data: Dataset
    """The images, labels in the classifier's class indices."""
    threat: ThreatModel
    """Budget and goal."""
    seed: int
    """The run's seed."""
    positions: Tensor | None = None
    """Positions of the cell's images in the data, in order, int64; None: all."""

    @property
    def image_count(self) -> int:
        """Number of images in the cell."""
        return len(self.data) if self.positions is None else len(self.positions)

    def select_images(self, positions: Sequence[int]) -> Dataset:
        """Return some images of the cell.

        Args:
            positions: Positions in the cell, from 0; these are the positions of outcomes.
        """
        return self.data.select_images(self._find_rows(positions)).load_images()

    def announce_images(self, positions: Sequence[int]) -> None:
        """Say that these images are selected next, so that they are read beside the work on others."""
        if isinstance(self.data.images, StoredImages):
            self.data.images.announce_rows(self._find_rows(positions))

    def _find_rows(self, positions: Sequence[int]) -> Tensor:
        rows = torch.as_tensor(positions, dtype=torch.int64)
        return rows if self.positions is None else self.positions[rows]

    @property
    def queried_model(self) -> Classifier:
        """The classifier that most passes go through, in batches of the chosen size."""
        return self.classifier

    @property
    def model_names(self) -> str:
        """Names of the models that run, for messages where the failing one is unknown."""
        return " or ".join(dict.fromkeys((self.classifier.name, self.queried_model.name)))

    @property
    def images_per_position(self) -> int:
        """Images per position that pass through the classifier together: one, or the views of a sign."""
        return 1

    @property
    def is_divisible(self) -> bool:
        """Whether images that are committed together may be processed separately, with the same verdicts."""
        return True

    @property
    @abstractmethod
    def max_passes(self) -> tuple[int, int]:
        """Maximum number of forward and backward passes over all images; some images cost less."""

    @property
    def work_passes(self) -> tuple[int, int]:
        """Numbers of passes that take as long as all images, at most; more where other work takes longer."""
        return self.max_passes

    def skip_proven_images(self, images: frozenset[str]) -> Job:  # noqa: ARG002 - for subclasses
        """Return the same work without attacks on images that are proven robust.

        Args:
            images: Ids of the proven images.
        """
        return self

    @abstractmethod
    def build_queue(self, batch_size: int, done_positions: set[int]) -> list[list[int]]:
        """Return the remaining positions, split into commit units of any size or in fixed groups.

        Args:
            batch_size: Images per pass.
            done_positions: Positions that need no work.
        """

    @abstractmethod
    def run(self, positions: list[int]) -> OutcomeBatch:
        """Run the job on some images.

        Args:
            positions: Their positions in the cell.
        """

    def split_queue(self, queue: list[list[int]], size: int) -> list[list[int]]:
        """Split the remaining queue into smaller batches."""
        return split_positions([position for batch in queue for position in batch], size)


def split_positions(positions: list[int], size: int) -> list[list[int]]:
    """Return consecutive pieces of at most ``size``."""
    return [positions[start : start + size] for start in range(0, len(positions), size)]


def format_error_line(failure: BaseException) -> str:
    """Format an exception as one line: this package's own by their message, others with their type."""
    text = str(failure) if isinstance(failure, RobustbenchError) else f"{type(failure).__name__}: {failure}"
    return " ".join(text.split())[:300]
