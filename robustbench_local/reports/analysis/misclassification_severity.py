"""How bad wrong readings are: the severity of each, its mean over images or views, and the worst of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.statistics import Estimate, estimate_bounded_mean


@dataclass(frozen=True, kw_only=True)
class SeverityTable:
    """What each wrong class costs when a model reads it."""

    rule: str
    """Where the numbers come from, in words."""
    severity_by_class: Mapping[int, float] = field(repr=False)
    """Class index -> severity in [0, 1]; a class that is not in it costs nothing."""

    @property
    def max_severity(self) -> float:
        """The largest severity of the table."""
        return max(self.severity_by_class.values(), default=0.0)

    def get_severity(self, prediction: int | None, label: int) -> float:
        """Severity of a reading.

        Args:
            prediction: Class that was read; None for no finite answer, which counts as the worst of the
                table, since nobody knows what such an answer leads to.
            label: The true class; reading it costs nothing.
        """
        if prediction is None:
            return self.max_severity
        return 0.0 if prediction == label else self.severity_by_class.get(prediction, 0.0)


@dataclass(frozen=True, kw_only=True)
class SeveritySummary:
    """The severity of several readings."""

    expected: Estimate
    """The mean, with a 95% interval that holds whatever the distribution."""
    worst_severity: float
    """The largest of them; 0 where there are none."""
    worst_class: int | None
    """A class that was read at that severity; None for no finite answer, or where nothing cost anything."""
    worst_count: int
    """Readings of that class."""


def find_severity_table(evidence: Evidence, model: str, sources: Sequence[int] = ()) -> SeverityTable | None:
    """The severities that apply to a model's readings.

    Args:
        evidence: What the run found.
        model: Id of the model.
        sources: Classes of the images; empty for images of any class.

    Returns:
        The table; None if the run has none, or the convention says nothing about images of these classes.
    """
    entry = (evidence.severity_costs.get("models") or {}).get(model)
    if entry is None or (entry["sources"] and not (sources and set(sources) <= set(entry["sources"]))):
        return None
    costs = {int(index): float(cost) for index, cost in entry["costs"].items()}
    return SeverityTable(rule=evidence.severity_costs["rule"], severity_by_class=costs)


def compute_severity(table: SeverityTable, readings: Iterable[tuple[int | None, int]]) -> SeveritySummary:
    """Expected severity and worst single outcome.

    Args:
        table: What each class costs.
        readings: Prediction and label of each image or view.
    """
    counts = Counter(readings)
    costs = {reading: table.get_severity(*reading) for reading in counts}
    worst = max(costs.values(), default=0.0)
    found = [prediction for (prediction, _), cost in costs.items() if cost == worst > 0]
    worst_class = found[0] if found else None
    alike = (count for (prediction, _), count in counts.items() if prediction == worst_class)
    values = [cost for reading, cost in costs.items() for _ in range(counts[reading])]
    return SeveritySummary(
        expected=estimate_bounded_mean(values, most=table.max_severity),
        worst_severity=worst,
        worst_class=worst_class,
        worst_count=sum(alike) if found else 0,
    )
