"""How a gate rules on one model: the value against the limit, with interval, gaps and doubts in mind."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from robustbench_local.reports.analysis.distances import nearest_spread, spread
from robustbench_local.reports.analysis.doubt_finders import Doubt, select_doubts
from robustbench_local.reports.analysis.doubt_recount import AssumedOutcome, assume_outcome
from robustbench_local.reports.analysis.evidence import CellResult, Subject, Threat
from robustbench_local.reports.analysis.gate_types import Gate, Ruling, Verdict
from robustbench_local.reports.analysis.sticker_controls import doubts as sticker_doubts
from robustbench_local.reports.analysis.worst_case import WorstCase, worst_of
from robustbench_local.reports.formatting.text import counted, distance, full, listing
from robustbench_local.statistics import Estimate, clopper_pearson

_Judge = Callable[[Sequence[CellResult]], Verdict]
_Rule = Callable[[Gate, Subject, Sequence[CellResult]], Verdict]


def judge_subject(
    gate: Gate,
    subject: Subject,
    cells: Sequence[CellResult],
    doubts: Sequence[Doubt] = (),
    others: Sequence[CellResult] = (),
) -> list[Verdict]:
    """The verdicts of one gate on one subject.

    Args:
        gate: The limit.
        subject: The model and defense.
        cells: The subject's cells that the gate concerns, at least one.
        doubts: What is doubted in the run. A ruling that depends on images in doubt is ``inconclusive``.
        others: All cells of the run. What they broke inside the ball of a threat counts against the threat;
            a gate that names an attack judges that attack alone.

    Returns:
        One verdict for each value that the gate compares with its limit.
    """
    return [
        _settle(group, doubts, partial(judge, gate, subject)) for group, judge in _group(gate, cells, others)
    ]


def _group(
    gate: Gate, cells: Sequence[CellResult], others: Sequence[CellResult]
) -> list[tuple[list[CellResult], _Rule]]:
    """The cells that one verdict is about, and what judges them."""
    if gate.metric == "clean_accuracy":
        return [(list(cells), _judge_clean)]
    if gate.metric == "median_distance":
        return [(group, _judge_distance) for group in _alike(cells, lambda one: (one.threat, one.targeted))]
    if gate.metric == "certified_accuracy":
        return [(group, _judge_certificates) for group in _alike(cells, _question)]
    if gate.metric == "sticker_success":
        return [([cell], _judge_sticker) for cell in cells]
    together = _alike([cell for cell in cells if cell.in_worst_case], lambda one: one.threat)
    alone = [[cell] for cell in cells if not cell.in_worst_case]
    judge = partial(_judge_attacks, others=() if gate.attack else others)
    return [(group, judge) for group in [*together, *alone]]


def _alike(cells: Sequence[CellResult], key: Callable[[CellResult], object]) -> list[list[CellResult]]:
    groups = dict.fromkeys(map(key, cells))
    return [[cell for cell in cells if key(cell) == group] for group in groups]


def _question(cell: CellResult) -> tuple[Threat, str]:
    """What is to be proven, and about what."""
    return cell.threat, cell.record.concerns


def _settle(cells: Sequence[CellResult], doubts: Sequence[Doubt], judge: _Judge) -> Verdict:
    """The verdict as measured, unless images in doubt could turn it.

    The images in doubt are judged again as if every attack had broken them; where the answers themselves are
    in doubt, also as if none had. If a ruling differs, nothing is decided.
    """
    measured = judge(cells)
    concerning = select_doubts(doubts, cells)
    if not concerning or measured.ruling == "inconclusive":
        return measured
    assumed: tuple[AssumedOutcome, ...] = (
        ("broken", "robust") if any(one.clean for one in concerning) else ("broken",)
    )
    for outcome in assumed:
        other = judge([assume_outcome(cell, concerning, outcome) for cell in cells])
        if other.ruling != measured.ruling:
            return _undecide(measured, other, concerning, outcome)
    return measured


def _undecide(measured: Verdict, other: Verdict, doubts: Sequence[Doubt], outcome: AssumedOutcome) -> Verdict:
    images = frozenset[str]().union(*(doubt.images for doubt in doubts))
    named = listing(list(dict.fromkeys(doubt.reason for doubt in doubts)))
    remedies = "; ".join(dict.fromkeys(doubt.remedy for doubt in doubts if doubt.remedy))
    what = f"{measured.reason} as measured, but {counted(len(images), 'image')} in doubt ({named})"
    how = f"counted as {outcome} they give {other.reason}: {other.ruling}"
    reason = f"{what}; {how}" + (f"; {remedies}" if remedies else "")
    return replace(measured, ruling="inconclusive", reason=reason)


def _judge_clean(gate: Gate, subject: Subject, cells: Sequence[CellResult]) -> Verdict:
    done = [worst_of([cell]).clean_accuracy for cell in cells if cell.done]
    estimate = max(done, key=lambda one: one.n, default=clopper_pearson(0, 0))
    return _rule(gate, subject, estimate, missing=() if done else ("every cell",))


def _judge_attacks(
    gate: Gate, subject: Subject, cells: Sequence[CellResult], others: Sequence[CellResult] = ()
) -> Verdict:
    """Robust accuracy or attack success: each image against all of these attacks."""
    worst = worst_of(cells, others)
    estimate = _METRICS[gate.metric](worst)
    verdict = _rule(gate, subject, estimate, missing=worst.missing)
    if not worst.left_out:
        return verdict
    unbroken = sum(one.robust for one in worst.every.values())
    met = f"{len(worst.verdicts)} of {counted(len(worst.every), 'image')} met every attack"
    return replace(verdict, reason=f"{verdict.reason}; {met}, {unbroken} are unbroken so far")


def _judge_certificates(gate: Gate, subject: Subject, cells: Sequence[CellResult]) -> Verdict:
    """The share of images that any of several certificates proves; further ones can only raise it."""
    done = [cell for cell in cells if cell.done]
    images = [image for image in (done[0].verdicts if done else ()) if all(image in c.verdicts for c in done)]
    proven = sum(any(cell.verdicts[image].robust for cell in done) for image in images)
    estimate = clopper_pearson(proven, len(images))
    told = full(estimate) + (", of its vote under noise" if cells[0].record.concerns != "model" else "")
    ruling, reason = _compare(gate, estimate, told, math.inf)
    missing = [cell.record.attack for cell in cells if not cell.done and cell.standing != "skipped"]
    if missing and ruling != ("pass" if gate.min is not None else "fail"):
        ruling, reason = "inconclusive", f"{told} without {listing(missing)}, which did not finish"
    return Verdict(gate=gate, subject=subject, estimate=estimate, ruling=ruling, reason=reason)


def _judge_sticker(gate: Gate, subject: Subject, cells: Sequence[CellResult]) -> Verdict:
    """The share of held-out views that end as the attacker wants; none passes against its controls."""
    [cell] = cells
    estimate, signs = cell.sticker_success, sum(sign.counted for sign in cell.signs)
    told = f"{full(estimate)}, views of {signs} of {counted(len(cell.signs), 'sign')}"
    if cell.done and not estimate.known:
        told = "no view counts: every sign is void"
        return Verdict(gate=gate, subject=subject, estimate=estimate, ruling="inconclusive", reason=told)
    verdict = _rule(gate, subject, estimate, () if cell.done else (cell.record.attack,), told=told)
    against = sticker_doubts(cell, low=gate.max is not None) if verdict.ruling == "pass" else []
    if not against:
        return verdict
    return replace(verdict, ruling="inconclusive", reason=f"{told}, but {listing(against)}")


def _judge_distance(gate: Gate, subject: Subject, cells: Sequence[CellResult]) -> Verdict:
    """The median distance to the nearest that several attacks under one threat have found."""
    done, record = [cell for cell in cells if cell.done], cells[0].record
    found = nearest_spread(done) if done else spread(())
    known = Estimate(value=found.median, low=found.low, high=found.high, n=found.n)
    ends = [distance(record.norm, end, beyond=record.eps) for end in (found.median, found.low, found.high)]
    between = f"{ends[1]} to {ends[2]}, " if found.low < found.high else ""
    told = f"{ends[0]} ({between}n = {found.n})"
    missing = [cell.record.attack for cell in cells if not cell.done]
    return _rule(gate, subject, known, missing, told=told, beyond=record.eps)


def _rule(
    gate: Gate,
    subject: Subject,
    estimate: Estimate,
    missing: Sequence[str],
    *,
    told: str = "",
    beyond: float = math.inf,
) -> Verdict:
    """Compare a value with the limit.

    Further attacks can only lower robust accuracy and distances, and raise attack success. So a limit that is
    already broken stays broken whatever is missing, while a limit that is kept so far is inconclusive.
    """
    told = told or full(estimate)
    ruling, reason = _compare(gate, estimate, told, beyond)
    if missing and ruling != "fail":
        ruling, reason = "inconclusive", f"{told} without {listing(missing)}, which did not finish"
    return Verdict(gate=gate, subject=subject, estimate=estimate, ruling=ruling, reason=reason)


def _compare(gate: Gate, estimate: Estimate, told: str, beyond: float) -> tuple[Ruling, str]:
    """The ruling, and the value in words; an infinite value is one that is larger than ``beyond``."""
    if not estimate.known:
        return "inconclusive", "nothing was measured"
    value = {"lower": estimate.low, "estimate": estimate.value, "upper": estimate.high}[gate.bound]
    best = estimate.high if gate.min is not None else estimate.low
    if math.isinf(value) and gate.limit > beyond:
        return "inconclusive", f"{told}: the attacks did not look as far as the limit"
    if _keeps(gate, value):
        return "pass", told
    if gate.bound != "estimate" and _keeps(gate, best):
        return "inconclusive", f"{told} straddles the limit; more images would tell"
    return "fail", told


def _keeps(gate: Gate, value: float) -> bool:
    return value >= gate.limit if gate.min is not None else value <= gate.limit


_METRICS: dict[str, Callable[[WorstCase], Estimate]] = {
    "robust_accuracy": lambda one: one.robust_accuracy,
    "attack_success": lambda one: one.attack_success,
}
