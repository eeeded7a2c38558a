"""Gates: limits that a run must keep, judged with the uncertainty of the numbers in mind."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from robustbench_local.errors import ConfigError, InvariantError
from robustbench_local.reports.brackets import find_violations
from robustbench_local.reports.controls import doubts
from robustbench_local.reports.counting import find_worst_cases, read_evidence
from robustbench_local.reports.distances import measures_distance, nearest_radii, spread
from robustbench_local.reports.evidence import CellResult, Evidence, Subject, Threat, WorstCase
from robustbench_local.reports.words import counted, distance, full, listing, percent, radius
from robustbench_local.statistics import Estimate, clopper_pearson
from robustbench_local.store import RunStore
from robustbench_local.suggestion import did_you_mean

Metric = Literal[
    "robust_accuracy",
    "clean_accuracy",
    "attack_success",
    "median_distance",
    "certified_accuracy",
    "sticker_success",
]
Bound = Literal["lower", "estimate", "upper"]
Level = Literal["error", "warn"]
Ruling = Literal["pass", "fail", "inconclusive"]

EXIT_FAILED, EXIT_INCONCLUSIVE = 1, 4
EXIT_BLOCKED = InvariantError.exit_code
"""A certificate is violated: something inside is wrong, whatever the gates say."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One limit of the grid file.

    Args:
        metric: What is limited.
        threat: Threat name, e.g. ``linf-8``: the worst case over its untargeted attacks.
        attack: An attack's card or name: that attack alone.
        model: Only this model; None: every model, each for itself.
        defense: Only this defense, ``none`` for models without one; None: all.
        min: Least value that passes: a share in [0, 1], or a distance.
        max: Largest value that passes.
        on: Which end of the 95 % interval, or the estimate itself, must keep the limit.
        level: ``error`` gates decide the exit code, ``warn`` gates only speak.

    Raises:
        ConfigError: If it limits nothing, or in two ways, or with a value out of range.
    """

    metric: Metric = "robust_accuracy"
    threat: str | None = None
    attack: str | None = None
    model: str | None = None
    defense: str | None = None
    min: float | None = None
    max: float | None = None
    on: Bound | None = None
    level: Level = "error"

    def __post_init__(self) -> None:
        for key, choices in (("metric", Metric), ("on", Bound), ("level", Level)):
            value = getattr(self, key)
            if value not in get_args(choices) and not (key == "on" and value is None):
                raise ConfigError(
                    f"{key} must be one of {', '.join(get_args(choices))}, got {value!r}", where="gates"
                )
        if (self.min is None) == (self.max is None):
            raise ConfigError("a gate needs either min or max", where="gates")
        if self.metric != "median_distance" and not 0 <= self.limit <= 1:
            raise ConfigError(f"a limit is a share between 0 and 1, got {self.limit}", where="gates")
        if not (0 <= self.limit < math.inf):
            raise ConfigError(f"a distance is 0 or more, got {self.limit}", where="gates")
        if self.metric != "clean_accuracy" and self.threat is None and self.attack is None:
            raise ConfigError(f"a gate on {self.metric} needs a threat or an attack", where="gates")

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Gate:
        """A gate from an entry of the grid file.

        Raises:
            ConfigError: If it has unknown keys or impossible values.
        """
        given = {key: value for key, value in entry.items() if value is not None}
        unknown = sorted(set(given) - set(cls.__dataclass_fields__))
        if unknown:
            known = listing(list(cls.__dataclass_fields__))
            raise ConfigError(f"unknown key {unknown[0]!r}", where="gates", remedy=f"use {known}")
        return cls(**given)

    @property
    def limit(self) -> float:
        """The value to keep."""
        return float(self.min if self.min is not None else self.max if self.max is not None else math.nan)

    @property
    def bound(self) -> Bound:
        """Which end decides: unless said otherwise, the one that makes passing a statement we are sure of."""
        return self.on or ("lower" if self.min is not None else "upper")

    def __str__(self) -> str:
        sign = "\N{GREATER-THAN OR EQUAL TO}" if self.min is not None else "\N{LESS-THAN OR EQUAL TO}"
        where = f" ({self.threat or self.attack})" if self.threat or self.attack else ""
        basis = "the estimate" if self.bound == "estimate" else f"the {self.bound} bound"
        limit = radius(self.limit) if self.metric == "median_distance" else percent(self.limit)
        return f"{self.metric.replace('_', ' ')}{where} {sign} {limit} on {basis}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a gate says about one model."""

    gate: Gate
    """The limit."""
    subject: Subject | None
    """The model and defense; None if the run has none that the gate speaks of."""
    estimate: Estimate
    """The measured value; of a distance, infinity where it is larger than the attacks looked for."""
    ruling: Ruling
    """``inconclusive`` when the interval straddles the limit or something is missing."""
    reason: str
    """Why, in one line."""

    @property
    def line(self) -> str:
        """The verdict in one line, for the terminal."""
        who = str(self.subject) if self.subject else (self.gate.model or "no model")
        warning = ", a warning only" if self.gate.level == "warn" and self.ruling != "pass" else ""
        return f"{self.ruling}: {who}: {self.gate}: {self.reason}{warning}"


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """All verdicts of a run."""

    verdicts: tuple[Verdict, ...]
    """In the order of the gates, then of the models."""
    violations: tuple[str, ...] = ()
    """Certificates that attacks contradict (diagnostic D25), one line each: no number is to be used then."""

    @property
    def exit_code(self) -> int:
        """70 if a certificate is violated; else 1 if a gate fails, 4 if one is inconclusive, or 0.

        Gates of level ``warn`` do not count.
        """
        if self.violations:
            return EXIT_BLOCKED
        rulings = {verdict.ruling for verdict in self.verdicts if verdict.gate.level == "error"}
        return EXIT_FAILED if "fail" in rulings else EXIT_INCONCLUSIVE if "inconclusive" in rulings else 0

    @property
    def lines(self) -> list[str]:
        """One line a verdict; one line that says so if there is no gate."""
        judged = [verdict.line for verdict in self.verdicts]
        blocked = [f"blocked: certificate violated: {line}" for line in self.violations]
        return [*blocked, *judged] or ["no gate in the grid file: nothing was judged"]


def check_gates(run_dir: Path, gates: Sequence[Mapping[str, Any]] | None = None) -> GateReport:
    """Judge a run by its gates.

    Args:
        run_dir: The run directory, finished or not.
        gates: Entries as in a grid file; None: the run's own.

    Raises:
        ConfigError: If there is no run here, or a gate is malformed.
    """
    with RunStore.open_readonly(run_dir) as store:
        return judge(store, gates)


def judge(store: RunStore, gates: Sequence[Mapping[str, Any]] | None = None) -> GateReport:
    """Judge an open run by its gates, or by these; errors as in ``check_gates``."""
    return judge_evidence(read_evidence(store), gates)


def judge_evidence(evidence: Evidence, gates: Sequence[Mapping[str, Any]] | None = None) -> GateReport:
    """Judge what was read from a run by its gates, or by these; errors as in ``check_gates``."""
    entries = evidence.gates if gates is None else gates
    read = [Gate.read(entry) for entry in entries]
    return GateReport(
        verdicts=tuple(verdict for gate in read for verdict in _verdicts(evidence, gate)),
        violations=tuple(one.sentence for one in find_violations(evidence) if one.blocks),
    )


def _verdicts(evidence: Evidence, gate: Gate) -> list[Verdict]:
    cells = [cell for cell in evidence.cells if _concerns(gate, cell)]
    if not cells:
        reason = "the run has no such cell"
        threats = {cell.record.threat for cell in evidence.cells}
        if gate.threat is not None and gate.threat not in threats:
            reason = f"{reason}: {did_you_mean(gate.threat, threats)}"
        return [
            Verdict(
                gate=gate, subject=None, estimate=clopper_pearson(0, 0), ruling="inconclusive", reason=reason
            )
        ]
    subjects = dict.fromkeys(cell.subject for cell in cells)
    return [
        verdict
        for subject in subjects
        for verdict in _judge_subject(gate, subject, [cell for cell in cells if cell.subject == subject])
    ]


def _concerns(gate: Gate, cell: CellResult) -> bool:
    """Whether a cell has a say.

    Targeted goals and transfers are only judged when their attack is named, and attacks that know nothing of
    the defense only when they are named in full. Looks at stickers have a metric of their own.
    """
    record = cell.record
    return (
        not cell.to_itself
        and cell.certificate == (gate.metric == "certified_accuracy")
        and cell.viewed == (gate.metric == "sticker_success")
        and gate.model in {None, record.model}
        and gate.defense in {None, record.defense}
        and gate.threat in {None, record.threat}
        and (_named(gate.attack, cell) if gate.attack else _unnamed(cell))
        and (gate.metric != "median_distance" or measures_distance(cell))
    )


def _unnamed(cell: CellResult) -> bool:
    return cell.viewed or not (cell.targeted or cell.borrowed)


def _named(attack: str, cell: CellResult) -> bool:
    return attack == cell.record.attack or (attack == cell.record.card and not cell.naive)


def _judge_subject(gate: Gate, subject: Subject, cells: Sequence[CellResult]) -> list[Verdict]:
    if gate.metric == "clean_accuracy":
        estimates = [cell.clean_accuracy for cell in cells if cell.done]
        estimate = max(estimates, key=lambda one: one.n, default=clopper_pearson(0, 0))
        return [_rule(gate, subject, estimate, missing=() if estimates else ("every cell",))]
    if gate.metric == "median_distance":
        groups = dict.fromkeys((cell.threat, cell.targeted) for cell in cells)
        alike = ([cell for cell in cells if (cell.threat, cell.targeted) == group] for group in groups)
        return [_judge_distance(gate, subject, group) for group in alike]
    if gate.metric == "certified_accuracy":
        questions = dict.fromkeys(map(_question, cells))
        alike = ([cell for cell in cells if _question(cell) == one] for one in questions)
        return [_judge_certificates(gate, subject, group) for group in alike]
    if gate.metric == "sticker_success":
        return [_judge_sticker(gate, subject, cell) for cell in cells]
    measure = _METRICS[gate.metric]
    alone = [
        _rule(gate, subject, measure(cell), missing=() if cell.done else (cell.record.attack,))
        for cell in cells
        if not cell.in_worst_case
    ]
    worst = find_worst_cases(cells)
    return [*(_rule(gate, subject, measure(one), missing=one.missing) for one in worst), *alone]


def _question(cell: CellResult) -> tuple[Threat, str]:
    """What is to be proven, and about what."""
    return cell.threat, cell.record.concerns


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


def _judge_sticker(gate: Gate, subject: Subject, cell: CellResult) -> Verdict:
    """The share of held-out views that end as the attacker wants; none passes against its controls."""
    estimate, signs = cell.sticker_success, sum(sign.counted for sign in cell.signs)
    told = f"{full(estimate)}, views of {signs} of {counted(len(cell.signs), 'sign')}"
    if cell.done and not estimate.known:
        told = "no view counts: every sign is void"
        return Verdict(gate=gate, subject=subject, estimate=estimate, ruling="inconclusive", reason=told)
    verdict = _rule(gate, subject, estimate, () if cell.done else (cell.record.attack,), told=told)
    against = doubts(cell, low=gate.max is not None) if verdict.ruling == "pass" else []
    if not against:
        return verdict
    return replace(verdict, ruling="inconclusive", reason=f"{told}, but {listing(against)}")


def _judge_distance(gate: Gate, subject: Subject, cells: Sequence[CellResult]) -> Verdict:
    """The median distance to the nearest that several attacks under one threat have found."""
    done, record = [cell for cell in cells if cell.done], cells[0].record
    found = spread(nearest_radii(done).values() if done else ())
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


_METRICS: dict[str, Callable[[CellResult | WorstCase], Estimate]] = {
    "robust_accuracy": lambda one: one.robust_accuracy,
    "attack_success": lambda one: one.attack_success,
}
