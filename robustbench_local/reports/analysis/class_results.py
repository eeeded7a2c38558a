"""Robust accuracy of each class, and what its images are misclassified as under attack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from robustbench_local.cluster_statistics import estimate_image_share
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.image_verdict import ImagePrediction
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.reports.analysis.worst_case import WorstCase
from robustbench_local.smallest_share import estimate_smallest_share
from robustbench_local.statistics import Estimate, compute_clopper_pearson

MAX_SHOWN_CONFUSIONS = 10
"""Confusions that the report lists for each attack; confusions.csv has all of them."""
MAX_MATRIX_CLASSES = 12
"""Classes up to which the report shows the whole matrix as a table."""
MAX_MAP_CLASSES = 120
"""Classes up to which it draws the matrix as a map; of more, it lists the most frequent confusions alone."""
MIN_CLASS_IMAGES = 10
"""Images below which the share of a class is marked: with fewer, even 0% or 100% leaves 30 points open."""


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One class."""

    label: int
    """Class index."""
    name: str
    """Class name."""
    clean_accuracy: Estimate
    """Share of the class's images that are correctly classified without an attack."""
    robust_accuracy: Estimate
    """Share of the class's images that are robust in the worst case over attacks."""
    attack_accuracies: tuple[Estimate, ...]
    """The same under each attack alone, in the order of the table's attacks."""

    @property
    def has_few_images(self) -> bool:
        """Whether its shares say little because they are of few images."""
        return self.robust_accuracy.n < MIN_CLASS_IMAGES


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Images of one class that are misclassified as one other class under attack."""

    label: int
    """True class."""
    prediction: int | None
    """Predicted class; None if the output is not finite."""
    label_name: str
    """Name of the true class."""
    prediction_name: str
    """Name of the predicted class."""
    share: Estimate
    """Share of all images of the true class."""


@dataclass(frozen=True, kw_only=True)
class ConfusionMatrix:
    """Predictions of images: clean, or under the attack of lowest robust accuracy."""

    attack: str
    """Identifier of the attack whose images they are."""
    attack_label: str
    """Its label in tables."""
    n: int
    """All images."""
    counts: Mapping[tuple[int, int | None], int]
    """(true class, predicted class) -> number of images; without zeros."""
    confusions: tuple[Confusion, ...]
    """Misclassifications, the most frequent first."""
    classes: tuple[tuple[int | None, str], ...]
    """Index and name of every class that occurs, as the true or the predicted one."""

    @property
    def class_sizes(self) -> Mapping[int, int]:
        """True class -> number of its images."""
        sizes: Counter[int] = Counter()
        for (label, _), count in self.counts.items():
            sizes[label] += count
        return sizes


@dataclass(frozen=True, kw_only=True)
class ClassTable:
    """The classes of one model under one threat model."""

    subject: EvaluatedModel
    """The model and defense."""
    threat: Threat
    """The threat model."""
    attacks: tuple[CellResult, ...]
    """The done attacks of the worst case."""
    is_complete: bool
    """Whether every attack of the grid is done."""
    rows: tuple[ClassRow, ...]
    """The classes with an image, the lowest robust accuracy first."""
    missing_classes: tuple[str, ...]
    """Names of the classes without an image."""
    worst_class_robust_accuracy: Estimate
    """Robust accuracy of the worst class, with an interval that accounts for its choice among the classes."""
    matrix: ConfusionMatrix
    """Predictions under the strongest attack."""
    clean_matrix: ConfusionMatrix
    """Predictions of the same images without an attack."""

    @property
    def worst_class(self) -> ClassRow:
        """The class of lowest observed robust accuracy."""
        return self.rows[0]

    @property
    def image_counts(self) -> tuple[int, int]:
        """Smallest and largest number of images of a class."""
        counts = [row.robust_accuracy.n for row in self.rows]
        return min(counts), max(counts)

    @property
    def few_image_count(self) -> int:
        """Number of classes with few images."""
        return sum(row.has_few_images for row in self.rows)

    @property
    def matrix_classes(self) -> tuple[tuple[int | None, str], ...]:
        """Index and name of every class that occurs in one of the two matrices, by index."""
        names = dict([*self.clean_matrix.classes, *self.matrix.classes])
        return tuple((index, names[index]) for index in sorted(names, key=_get_order))


@collect_once
def build_class_tables(evidence: Evidence) -> list[ClassTable]:
    """Build one table for each model and threat model with a done attack and two classes or more."""
    tables = (_build_table(evidence, worst) for worst in evidence.worst_cases if worst.attacks)
    return [table for table in tables if len(table.rows) > 1]


def estimate_worst_class(worst: WorstCase, cells: Sequence[CellResult]) -> Estimate:
    """Estimate robust accuracy of the worst class, with an interval that accounts for its choice.

    Args:
        worst: The worst case over attacks.
        cells: The cells that it is over; they know the true classes.
    """
    return _estimate_worst_part(worst, _split_by_class(worst, group_by_class(worst, cells)))


def _split_by_class(worst: WorstCase, by_class: Mapping[int, tuple[str, ...]]) -> dict[int, WorstCase]:
    return {label: worst.select_images(images) for label, images in by_class.items()}


def _estimate_worst_part(worst: WorstCase, by_class: Mapping[int, WorstCase]) -> Estimate:
    parts = by_class.values()
    return estimate_smallest_share(
        [part.estimate_robust_accuracy for part in parts], worst.estimate_robust_accuracy
    )


def group_by_class(worst: WorstCase, cells: Sequence[CellResult]) -> dict[int, tuple[str, ...]]:
    """Return the images of each class with an image, in the order of the class indices."""
    labels = {image: prediction.label for cell in cells for image, prediction in cell.predictions.items()}
    members: dict[int, list[str]] = {label: [] for label in sorted(set(labels.values()))}
    for image in worst.any_attack_verdicts:
        members[labels[image]].append(image)
    return {label: tuple(images) for label, images in members.items() if images}


def _build_table(evidence: Evidence, worst: WorstCase) -> ClassTable:
    cells = [
        cell
        for cell in evidence.cells
        if cell.is_done
        and cell.is_in_worst_case
        and (cell.subject, cell.threat) == (worst.subject, worst.threat)
    ]
    by_class = group_by_class(worst, cells)
    parts = _split_by_class(worst, by_class)
    rows = [
        ClassRow(
            label=label,
            name=evidence.get_class_name(worst.subject.model, label),
            clean_accuracy=part.clean_accuracy,
            robust_accuracy=part.robust_accuracy,
            attack_accuracies=tuple(_estimate_in_class(cell, images) for cell in cells),
        )
        for label, images in by_class.items()
        for part in (parts[label],)
    ]
    strongest = min(cells, key=lambda cell: cell.robust_accuracy.value)
    names = evidence.get_class_names(worst.subject.model)
    wanted = set(worst.threat.sources) or set(range(len(names)))
    return ClassTable(
        subject=worst.subject,
        threat=worst.threat,
        attacks=tuple(cells),
        is_complete=worst.is_complete,
        rows=tuple(sorted(rows, key=lambda row: (row.robust_accuracy.value, -row.robust_accuracy.n))),
        missing_classes=tuple(
            evidence.get_class_name(worst.subject.model, label) for label in sorted(wanted - set(by_class))
        ),
        worst_class_robust_accuracy=_estimate_worst_part(worst, parts),
        matrix=_build_matrix(evidence, strongest, strongest.predictions),
        clean_matrix=_build_matrix(evidence, strongest, _collect_clean_predictions(strongest)),
    )


def _estimate_in_class(cell: CellResult, images: Sequence[str]) -> Estimate:
    marks = {image: cell.verdicts[image].robust for image in images if image in cell.verdicts}
    return estimate_image_share(marks, cell.groups)


def _collect_clean_predictions(cell: CellResult) -> dict[str, ImagePrediction]:
    """Collect the predictions without an attack; images that are misclassified clean are not attacked."""
    right: dict[int, ImagePrediction] = {}  # one object for each class: there may be millions of images
    found = {}
    for image, prediction in cell.predictions.items():
        if cell.verdicts[image].clean_correct:
            prediction = right.get(prediction.label) or right.setdefault(  # noqa: PLW2901
                prediction.label, prediction._replace(final=prediction.label)
            )
        found[image] = prediction
    return found


def _build_matrix(
    evidence: Evidence, cell: CellResult, predictions: Mapping[str, ImagePrediction]
) -> ConfusionMatrix:
    model = cell.record.model
    different = Counter(predictions.values())  # few are
    counts = {(prediction.label, prediction.final): count for prediction, count in different.items()}
    wrong = sorted(
        ((pair, count) for pair, count in counts.items() if pair[0] != pair[1]),
        key=lambda entry: (-entry[1], entry[0][0], _get_order(entry[0][1])),
    )
    members: dict[int, list[str]] = {}
    for image, prediction in predictions.items():
        members.setdefault(prediction.label, []).append(image)
    classes = sorted({index for pair in counts for index in pair}, key=_get_order)
    return ConfusionMatrix(
        attack=cell.record.attack,
        attack_label=cell.label,
        n=len(predictions),
        counts=dict(sorted(counts.items(), key=lambda entry: (entry[0][0], _get_order(entry[0][1])))),
        confusions=tuple(
            Confusion(
                label=label,
                prediction=final,
                label_name=evidence.get_class_name(model, label),
                prediction_name=evidence.get_class_name(model, final),
                share=_estimate_confusion(cell, predictions, members[label], final, count),
            )
            for (label, final), count in wrong
        ),
        classes=tuple((index, evidence.get_class_name(model, index)) for index in classes),
    )


def _estimate_confusion(
    cell: CellResult,
    predictions: Mapping[str, ImagePrediction],
    images: Sequence[str],
    final: int | None,
    count: int,
) -> Estimate:
    """Estimate the share of a class's images that are predicted as another class."""
    if not cell.groups:
        return compute_clopper_pearson(count, len(images))
    marks = {image: predictions[image].final == final for image in images}
    return estimate_image_share(marks, cell.groups)


def _get_order(index: int | None) -> tuple[bool, int]:
    """Return a key that sorts classes by index, and the output that is not finite last."""
    return index is None, index or 0
