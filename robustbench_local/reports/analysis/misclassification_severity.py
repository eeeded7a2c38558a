"""Severity of misclassifications: per class, expected over images or views, and worst."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from robustbench_local.cluster_statistics import Groups
from robustbench_local.mean_intervals import estimate_group_mean
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.statistics import Estimate, estimate_bounded_mean, widen_interval

VIEW_SEVERITY_EXPLANATION = (
    "Expected: the mean over the views that count, with a 95% interval that covers further views of these "
    "signs, not further signs. Worst: the most severe class that any of them is misclassified as, and how "
    "many are."
)
"""How to read severities over views."""


@dataclass(frozen=True, kw_only=True)
class SeverityTable:
    """Severity of each wrong class."""

    rule: str
    """Source of the severities, in words."""
    severity_by_class: Mapping[int, float] = field(repr=False)
    """Class index -> severity in [0, 1]; missing classes have severity 0."""

    @property
    def max_severity(self) -> float:
        """The largest severity of the table."""
        return max(self.severity_by_class.values(), default=0.0)

    def get_severity(self, prediction: int | None, label: int) -> float:
        """Return the severity of a prediction.

        Args:
            prediction: Predicted class; None for an output that is not finite, which counts as the worst of
                the table, since its consequence is unknown.
            label: The true class, which has severity 0.
        """
        if prediction is None:
            return self.max_severity
        return 0.0 if prediction == label else self.severity_by_class.get(prediction, 0.0)


@dataclass(frozen=True, kw_only=True)
class SeveritySummary:
    """Severity over several predictions."""

    expected: Estimate
    """The mean, with a 95% interval that holds whatever the distribution."""
    worst_severity: float
    """The largest severity; 0 without predictions."""
    worst_class: int | None
    """A predicted class of that severity; None for an output that is not finite, or for severity 0."""
    worst_count: int
    """Predictions of that class."""


def find_severity_table(evidence: Evidence, model: str, sources: Sequence[int] = ()) -> SeverityTable | None:
    """Find the severities that apply to a model's predictions.

    Args:
        evidence: Results of the run.
        model: Id of the model.
        sources: Classes of the images; empty for images of any class.

    Returns:
        The table; None if the run has none, or the convention does not cover these classes.
    """
    entry = (evidence.severity_costs.get("models") or {}).get(model)
    if entry is None or (entry["sources"] and not (sources and set(sources) <= set(entry["sources"]))):
        return None
    costs = {int(index): float(cost) for index, cost in entry["costs"].items()}
    return SeverityTable(rule=evidence.severity_costs["rule"], severity_by_class=costs)


Reading = tuple[int | None, int]
"""Prediction and label of an image or a view."""


def compute_image_severity(
    table: SeverityTable, readings: Mapping[str, Reading], groups: Groups
) -> SeveritySummary:
    """Compute the severity over images, with an interval over their groups if there are any.

    Args:
        table: Severity of each class.
        readings: Image id -> prediction and label.
        groups: Group of each image; empty if the images are independent.
    """
    summary = compute_severity(table, readings.values())
    if not groups:
        return summary
    expected = estimate_group_mean(
        [table.get_severity(*reading) for reading in readings.values()],
        [groups.get(image, image) for image in readings],
        most=table.max_severity,
    )
    return replace(summary, expected=widen_interval(expected, summary.expected))


def compute_severity(table: SeverityTable, readings: Iterable[Reading]) -> SeveritySummary:
    """Compute the expected severity and the worst single outcome.

    Args:
        table: Severity of each class.
        readings: Prediction and label of each image or view.
    """
    counts = Counter(readings)
    costs = {reading: table.get_severity(*reading) for reading in counts}
    worst = max(costs.values(), default=0.0)
    worst_predictions = [prediction for (prediction, _), cost in costs.items() if cost == worst > 0]
    worst_class = worst_predictions[0] if worst_predictions else None
    alike = (count for (prediction, _), count in counts.items() if prediction == worst_class)
    values = [cost for reading, cost in costs.items() for _ in range(counts[reading])]
    return SeveritySummary(
        expected=estimate_bounded_mean(values, most=table.max_severity),
        worst_severity=worst,
        worst_class=worst_class,
        worst_count=sum(alike) if worst_predictions else 0,
    )
