"""The images that changed sides between two runs: robust in one of them only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.compared_rows import ComparedRow
from robustbench_local.reports.analysis.compared_run import ComparedRun

ImageOutcome = Literal["robust", "certified", "misclassified", "attacked", "not certified", "error"]


@dataclass(frozen=True, kw_only=True)
class ImageSide:
    """What became of an image in one run."""

    outcome: ImageOutcome
    """``misclassified``: without an attack. ``attacked``: an attack succeeded."""
    prediction: str
    """Name of the class that is predicted in the end."""
    attack: str = ""
    """Label of the first attack that succeeded; empty if none did."""
    cells: tuple[str, ...] = ()
    """Keys of the cells of all attacks that succeeded, that one first."""

    @property
    def text(self) -> str:
        """The outcome in words."""
        if self.outcome == "attacked":
            return f"misclassified as {self.prediction} under {self.attack}"
        if self.outcome == "misclassified":
            return f"misclassified as {self.prediction} without attack"
        return self.outcome


@dataclass(frozen=True, kw_only=True)
class ChangedImage:
    """An image on which two runs differ."""

    image: str
    """Id of the image."""
    position: int
    """Its position among the compared images of the second run, from 0."""
    label: str
    """Name of its true class."""
    is_lost: bool
    """True if it counts in the first run only, false if in the second only."""
    first: ImageSide
    """Its outcome in the first run."""
    second: ImageSide
    """Its outcome in the second run."""

    @property
    def attacked_side(self) -> ImageSide:
        """The side on which it does not count."""
        return self.second if self.is_lost else self.first


def list_changed_images(first: ComparedRun, second: ComparedRun, row: ComparedRow) -> Iterator[ChangedImage]:
    """List the images behind a change, the lost ones first, each kind in the order of the data.

    Args:
        first: The baseline.
        second: The other run.
        row: The compared share; without paired images nothing is listed.
    """
    position_by_image = {image: position for position, image in enumerate(row.second_images)}
    sides = [[pair.first for pair in row.cells], [pair.second for pair in row.cells]]
    models = (row.subjects.first.model, row.subjects.second.model)
    for images, is_lost in ((row.change.lost_images, True), (row.change.won_images, False)):
        for image in images:
            yield ChangedImage(
                image=image,
                position=position_by_image[image],
                label=_name_label(second, models[1], sides[1], image),
                is_lost=is_lost,
                first=_describe_side(first, models[0], sides[0], image),
                second=_describe_side(second, models[1], sides[1], image),
            )


def _describe_side(run: ComparedRun, model: str, cells: Sequence[CellResult], image: str) -> ImageSide:
    """Describe what became of an image under the attacks of one run."""
    concerned = [cell for cell in cells if image in cell.verdicts]
    broken = [cell for cell in concerned if cell.verdicts[image].broken]
    cell = broken[0] if broken else concerned[0]
    prediction = cell.predictions[image]
    name = run.evidence.get_class_name(model, prediction.final)
    if broken:
        keys = tuple(cell.record.key for cell in broken)
        return ImageSide(outcome="attacked", prediction=name, attack=cell.label, cells=keys)
    if not cell.verdicts[image].clean_correct:
        return ImageSide(outcome="misclassified", prediction=name)
    if cell.is_certificate:
        is_certified = cell.certified_radii.get(image, -1.0) >= cell.record.eps
        return ImageSide(outcome="certified" if is_certified else "not certified", prediction=name)
    is_known = all(cell.verdicts[image].is_known for cell in concerned)
    return ImageSide(outcome="robust" if is_known else "error", prediction=name)


def _name_label(run: ComparedRun, model: str, cells: Sequence[CellResult], image: str) -> str:
    labels = (cell.predictions[image].label for cell in cells if image in cell.predictions)
    return run.evidence.get_class_name(model, next(labels, None))
