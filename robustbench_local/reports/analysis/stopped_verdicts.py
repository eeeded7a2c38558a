"""The verdict of a gate on a run that stopped early, from intervals that hold at every moment of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from robustbench_local.counted_nouns import choose_form
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gate_types import Gate, GateVerdict, Ruling
from robustbench_local.reports.analysis.image_verdict import ImageVerdict
from robustbench_local.reports.analysis.read_run import find_worst_cases
from robustbench_local.reports.analysis.stop_targets import build_gate_target, collect_marks, widen_interval
from robustbench_local.reports.analysis.worst_case import find_breaks_inside
from robustbench_local.reports.formatting.text import (
    format_count,
    format_estimate,
    join_in_sentence,
)
from robustbench_local.sequential_decision import CountInterval, LimitTest, Zone
from robustbench_local.statistics import Estimate, compute_clopper_pearson
from robustbench_local.stop_target import TargetState


def is_stopped(cells: Sequence[CellResult]) -> bool:
    """Return whether cells rest on part of their images because the run stopped early."""
    return any(cell.record.status == "stopped" for cell in cells)


def count_stopped_cells(evidence: Evidence) -> Evidence:
    """Return the evidence of a run as its gates see it: stopped cells count on the images they have seen.

    So the diagnostics and doubts that keep a gate from passing look at these images as well.
    """
    if evidence.stop is None or not is_stopped(evidence.cells):
        return evidence
    cells = tuple(
        replace(cell, reported_status="done") if cell.reported_status == "stopped" and cell.verdicts else cell
        for cell in evidence.cells
    )
    return replace(evidence, cells=cells, worst_cases=tuple(find_worst_cases(cells)))


def judge_stopped(
    gate: Gate, subject: EvaluatedModel, cells: Sequence[CellResult], evidence: Evidence
) -> GateVerdict:
    """Judge a gate on cells that stopped early: its verdict is the one that all images would give.

    Args:
        gate: The limit.
        subject: The model and defense.
        cells: The cells that the gate judges together, some of them stopped.
        evidence: The run.
    """
    sound = [cell for cell in cells if _counts_so_far(cell)]
    target = build_gate_target(gate, sound or cells, evidence)
    if not (sound and isinstance(target.test, LimitTest)):
        why = target.obstacle or "nothing was measured"
        nothing = compute_clopper_pearson(0, 0)
        reason = f"the run stopped early, and this gate needs every image: {why}"
        return GateVerdict(gate=gate, subject=subject, estimate=nothing, ruling="inconclusive", reason=reason)
    proofs = [cell for cell in evidence.cells if cell.record.key in target.proofs]
    state = target.read_marks(collect_marks([*sound, *proofs]))
    zone = target.test.find_zone(state.interval)
    ruling, estimate = _find_ruling(gate, zone), _estimate_share(gate, state.interval)
    reason = _format_reason(estimate, state, zone)
    missing = [cell.label for cell in cells if not _counts_so_far(cell)]
    if missing and ruling != "fail":
        ruling, reason = (
            "inconclusive",
            f"{reason}, without {join_in_sentence(missing)}, which did not finish",
        )
    verdict = GateVerdict(gate=gate, subject=subject, estimate=estimate, ruling=ruling, reason=reason)
    return verdict if gate.attack else _count_other_attacks(verdict, sound, proofs, evidence)


def _counts_so_far(cell: CellResult) -> bool:
    """Return whether what a cell has seen counts, be it nothing: it is done or stopped, without errors."""
    return not cell.tally.errors and (cell.is_done or cell.reported_status == "stopped")


def _count_other_attacks(
    verdict: GateVerdict, cells: Sequence[CellResult], proofs: Sequence[CellResult], evidence: Evidence
) -> GateVerdict:
    """Return a verdict that stands even if successes of the run's other attacks inside the ball count."""
    broken = find_breaks_inside(cells, evidence.cells)
    counted = [_count_as_broken(cell, frozenset(broken)) for cell in cells]
    if verdict.ruling == "inconclusive" or all(
        one.verdicts == cell.verdicts for one, cell in zip(counted, cells, strict=True)
    ):
        return verdict
    target = build_gate_target(verdict.gate, cells, evidence)
    state = target.read_marks(collect_marks([*counted, *proofs]))
    zone = target.test.find_zone(state.interval) if isinstance(target.test, LimitTest) else None
    if _find_ruling(verdict.gate, zone) == verdict.ruling:
        return verdict
    labels = join_in_sentence(list(dict.fromkeys(broken.values())))
    reason = f"{verdict.reason}, but {labels} succeeded inside the ball on images that count as robust"
    return replace(verdict, ruling="inconclusive", reason=f"{reason}; run all images")


def _count_as_broken(cell: CellResult, images: frozenset[str]) -> CellResult:
    broken = ImageVerdict(clean_correct=True, broken=True, robust=False)
    verdicts = {
        image: broken if image in images and verdict.robust else verdict
        for image, verdict in cell.verdicts.items()
    }
    return replace(cell, verdicts=verdicts)


def _find_ruling(gate: Gate, zone: Zone | None) -> Ruling:
    """Return the ruling that all numbers of an interval give; inconclusive if they differ."""
    lowest: Ruling = "fail" if gate.min is not None else "pass"
    highest: Ruling = "pass" if gate.min is not None else "fail"
    return lowest if zone == "below" else highest if zone == "above" else "inconclusive"


def _estimate_share(gate: Gate, interval: CountInterval) -> Estimate:
    """Return the estimate of a gate; for one on the estimate its interval is about the data alone."""
    if gate.bound != "estimate":
        return widen_interval(interval)
    size = interval.population
    return Estimate(value=interval.value, low=interval.low / size, high=interval.high / size, n=interval.seen)


def _format_reason(estimate: Estimate, state: TargetState, zone: Zone | None) -> str:
    """Describe the estimate, the images behind it, and whether more of them can change the verdict."""
    whole = format_count(state.interval.population, "image")
    given = [f"{len(known):,}" if known else "none" for known in state.outcomes[1:]]
    costlier = choose_form(len(given), "attack", "attacks")
    seen = join_in_sentence(given) if any(state.outcomes[1:]) else "none"
    attacks = f", {seen} of them under the costlier {costlier}" if given else ""
    end = "undecided" if zone is None else "decided"
    if zone == "between":
        end = "even all of them would leave it open"
    text = f"{format_estimate(estimate)}, anytime-valid"
    return f"{text}, stopped after {estimate.n:,} of {whole}{attacks}: {end}"
