"""The questions of a run that stops early, read from its gates and its rule, and their answers so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gate_types import Gate, Ruling
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.reports.formatting.text import format_percent
from robustbench_local.sequential_decision import CountInterval, LimitTest, PrecisionTest, StopTest
from robustbench_local.statistics import Estimate, compute_clopper_pearson
from robustbench_local.stop_target import ImageMark, Marks, StopTarget, TargetState

SEQUENTIAL_METRICS = frozenset({"robust_accuracy", "clean_accuracy"})
"""Metrics that are shares of all images, so that a random part of the images can decide a limit on them."""


@dataclass(frozen=True, kw_only=True)
class StoppedEstimate:
    """The robust accuracy of a model in the worst case, from a random part of the images."""

    subject: EvaluatedModel
    """The model and defense."""
    threat: Threat
    """The threat model."""
    attack_labels: tuple[str, ...]
    """Labels of the attacks in tables, cheap ones first."""
    state: TargetState
    """The outcomes in random order, and the interval over all images of the data."""
    is_about_data: bool = False
    """Whether the run was asked for a narrow interval over the images of the data alone."""

    @property
    def stated(self) -> Estimate:
        """The share with the interval to state: about images of this kind, unless it is about the data."""
        return self.share if self.is_about_data else widen_interval(self.state.interval)

    @property
    def share(self) -> Estimate:
        """Share of robust images among all images of the data, with its anytime-valid interval."""
        interval = self.state.interval
        size = interval.population
        return Estimate(
            value=interval.value, low=interval.low / size, high=interval.high / size, n=interval.seen
        )


def widen_interval(interval: CountInterval) -> Estimate:
    """Return an interval about images of this kind, which contains the one that all images would give."""
    size = interval.population
    low = compute_clopper_pearson(interval.low, size).low
    high = compute_clopper_pearson(interval.high, size).high
    return Estimate(value=interval.value, low=low, high=high, n=interval.seen)


def build_gate_target(
    gate: Gate, cells: Sequence[CellResult], evidence: Evidence, *, name: str = ""
) -> StopTarget:
    """Build the question of a gate on the cells that it judges together.

    Args:
        gate: The gate.
        cells: At least one cell of one subject.
        evidence: The run, with its stop record.
        name: The question, for messages.
    """
    obstacle = _find_obstacle(gate, cells, evidence)
    order = evidence.stop.order if evidence.stop else ()
    is_clean = gate.metric == "clean_accuracy"
    ordered = _sort_by_cost(cells, evidence)
    return _build_target(
        name or gate.describe_limit(),
        ordered[:1] if is_clean and not obstacle else ordered,
        evidence,
        test=None if obstacle else build_limit_test(gate, len(order)),
        proofs=() if is_clean or gate.attack else _list_proofs(cells, evidence),
        counts_clean=is_clean,
        obstacle=obstacle,
    )


def build_limit_test(gate: Gate, population: int) -> LimitTest:
    """Return which numbers of images make a gate fail, pass or stay undecided once all images are done."""
    lowest, highest = ("fail", "pass") if gate.min is not None else ("pass", "fail")
    above = _find_first(lambda count: classify_count(gate, count, population) == highest, population)
    below = _find_first(lambda count: classify_count(gate, count, population) != lowest, population) - 1
    return LimitTest(below=below, above=above)


def classify_count(gate: Gate, count: int, population: int) -> Ruling:
    """Return the ruling of a gate on a number of images among all, as over a whole run."""
    estimate = compute_clopper_pearson(count, population)
    if gate.is_kept_by(gate.select_bound(estimate)):
        return "pass"
    best = estimate.high if gate.min is not None else estimate.low
    return "inconclusive" if gate.bound != "estimate" and gate.is_kept_by(best) else "fail"


def list_precision_targets(evidence: Evidence) -> Iterator[StoppedEstimate]:
    """List the worst cases of a run whose intervals are made as narrow as its rule asks for."""
    precision = evidence.stop.rule.precision if evidence.stop else None
    test = None if precision is None else PrecisionTest(half_width=precision)
    for subject, threat, cells in _group_worst_cases(evidence):
        obstacle = _find_cell_obstacle(cells, evidence)
        ordered = _sort_by_cost(cells, evidence)
        target = _build_target(
            f"robust accuracy of {subject} under {threat}"
            + (f" to {format_percent(precision)}" if precision else ""),
            ordered,
            evidence,
            test=None if obstacle else test,
            proofs=_list_proofs(cells, evidence),
            obstacle=obstacle,
        )
        yield StoppedEstimate(
            subject=subject,
            threat=threat,
            attack_labels=tuple(cell.label for cell in ordered),
            state=target.read_marks(collect_marks(evidence.cells)),
            is_about_data=precision is not None,
        )


def list_stopped_estimates(evidence: Evidence) -> list[StoppedEstimate]:
    """List the worst cases that rest on part of the images of a run which stopped early."""
    if evidence.stop is None:
        return []
    stopped = {(cell.subject, cell.threat) for cell in evidence.cells if cell.record.status == "stopped"}
    return [
        one
        for one in list_precision_targets(evidence)
        if (one.subject, one.threat) in stopped and one.state.interval.seen and not one.state.target.obstacle
    ]


def count_given_images(one: StoppedEstimate) -> list[tuple[str, int]]:
    """Count the images that each attack was given, cheap ones first; with the labels of the attacks."""
    marks = one.state.marks
    return [
        (label, len(marks.get(key, {})))
        for label, key in zip(one.attack_labels, one.state.target.cells, strict=True)
    ]


def collect_marks(cells: Sequence[CellResult]) -> Marks:
    """Collect what cells found on each image."""
    return {
        cell.record.key: {
            image: ImageMark(verdict.clean_correct, verdict.robust)
            for image, verdict in cell.verdicts.items()
        }
        for cell in cells
    }


def _find_first(is_reached: Callable[[int], bool], population: int) -> int:
    """Return the first number of images with a property that all larger numbers share; else one too many."""
    low, high = 0, population + 1
    while low < high:
        middle = (low + high) // 2
        if is_reached(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _group_worst_cases(
    evidence: Evidence,
) -> Iterator[tuple[EvaluatedModel, Threat, list[CellResult]]]:
    cells = [cell for cell in evidence.cells if cell.is_in_worst_case and cell.reported_status != "skipped"]
    for subject, threat in dict.fromkeys((cell.subject, cell.threat) for cell in cells):
        yield (
            subject,
            threat,
            [cell for cell in cells if (cell.subject, cell.threat) == (subject, threat)],
        )


def _build_target(
    name: str,
    cells: Sequence[CellResult],
    evidence: Evidence,
    *,
    test: StopTest | None,
    proofs: Sequence[CellResult] = (),
    counts_clean: bool = False,
    obstacle: str = "",
) -> StopTarget:
    known = evidence.stop.cells if evidence.stop else {}
    return StopTarget(
        name=name,
        cells=tuple(cell.record.key for cell in cells),
        costs=tuple(known[cell.record.key].cost for cell in cells if cell.record.key in known),
        proofs=tuple(cell.record.key for cell in proofs),
        proof_cost=sum(known[cell.record.key].cost for cell in proofs),
        order=evidence.stop.order if evidence.stop else (),
        test=test,
        counts_clean=counts_clean,
        obstacle=obstacle,
    )


def _sort_by_cost(cells: Sequence[CellResult], evidence: Evidence) -> list[CellResult]:
    known = evidence.stop.cells if evidence.stop else {}
    return sorted(
        cells, key=lambda cell: known[cell.record.key].cost if cell.record.key in known else float("inf")
    )


def _find_obstacle(gate: Gate, cells: Sequence[CellResult], evidence: Evidence) -> str:
    """Return why a random part of the images cannot decide a gate; empty if it can."""
    if gate.metric not in SEQUENTIAL_METRICS:
        return f"{gate.metric.replace('_', ' ')} is no share of all images"
    if gate.is_drop:
        return "it compares the run with another one"
    if gate.true_class is not None:
        return "it is about one class"
    return _find_cell_obstacle(cells, evidence)


def _find_cell_obstacle(cells: Sequence[CellResult], evidence: Evidence) -> str:
    known = evidence.stop.cells if evidence.stop else {}
    if any(cell.groups for cell in cells):
        return "its interval is over groups of images"
    for cell in cells:
        about = known.get(cell.record.key)
        if about is None or about.obstacle:
            return f"{cell.label}: {about.obstacle if about else 'it was not planned'}"
    return ""


def _list_proofs(cells: Sequence[CellResult], evidence: Evidence) -> list[CellResult]:
    """List the certificates whose proofs hold against every attack of these cells.

    Deterministic, this package's own, about the same classifier, and over all images.
    """
    subject, threat = cells[0].subject, cells[0].threat
    known = evidence.stop.cells if evidence.stop else {}
    return [
        cell
        for cell in evidence.cells
        if cell.is_certificate
        and cell.subject == subject
        and cell.record.concerns == "model"
        and cell.record.alpha == 0
        and "code of the method" not in cell.record.identity
        and cell.record.norm == threat.norm
        and cell.record.eps >= threat.eps
        and cell.record.key in known
        and not known[cell.record.key].obstacle
        and known[cell.record.key].cost > 0
    ]
