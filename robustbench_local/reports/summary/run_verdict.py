"""The verdict of a run by its gates: pass, fail or inconclusive, and why, in one sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from robustbench_local.config.gate_choices import LOAD_METRICS
from robustbench_local.counted_nouns import choose_form, format_count
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gate_report import GateReport
from robustbench_local.reports.analysis.gate_types import (
    LOAD_UNITS,
    Gate,
    GateStatus,
    GateVerdict,
    format_limit_value,
    format_load_estimate,
    format_points,
    format_split,
)
from robustbench_local.reports.analysis.trust import select_blocks, select_distrust
from robustbench_local.reports.formatting.text import (
    format_budget,
    format_estimate,
    isolate_direction,
    join_in_sentence,
    shorten_text,
)

RunRuling = Literal["pass", "fail", "inconclusive", "none", "invalid"]
"""``none``: the run has no gates, or none that decides; ``invalid``: a certificate and an attack contradict
each other."""
MAX_NAMED_MODELS = 4
"""Models named in the sentence; of more, their number."""

MAX_NAME_CHARACTERS = 60
"""Characters of a name in the banner, of a model, an attack or a class; tables have the whole name."""

_LABELS: Mapping[RunRuling, str] = {
    "pass": "PASS",
    "fail": "FAIL",
    "inconclusive": "INCONCLUSIVE",
    "none": "NO GATE WAS SET",
    "invalid": "INVALID",
}
_ADVICE: Mapping[RunRuling, str] = {
    "pass": "By the limits that were set, {models} can be deployed.",
    "fail": "By the limits that were set, do not deploy {models}.",
    "inconclusive": "Do not deploy {models} yet: the evidence does not decide.",
    "none": "No limit decides what is good enough, so this report gives no verdict.",
    "invalid": "Do not use these numbers.",
}
_UNCOUNTED_REASONS: Mapping[GateStatus, str] = {
    "warn": "not met, but the gate only warns",
    "inconclusive": "not decided, and the gate only warns",
    "waived": "not met, but the failure is waived",
    "skipped": "nothing to compare with",
}
_ANY_MODEL = "these models"
_LIMITED_ENDS = {"lower": "its lower bound", "estimate": "it", "upper": "its upper bound"}
_METRIC_NAMES = {"p95_ms": "p95 latency", "median_distance": "median distance to misclassification"}


@dataclass(frozen=True, kw_only=True)
class VerdictLine:
    """One gate on one model, in words."""

    subject: str
    """The model and defense."""
    quantity: str
    """What the gate limits: ``robust accuracy under L-infinity at most 8/255``."""
    measured: str
    """Its value with interval and n."""
    demand: str
    """The limit: ``its lower bound must be at least 20.0%``."""
    remark: str
    """What the reason says beyond the value; empty if nothing."""
    verdict: GateVerdict
    """The verdict that it describes."""

    @property
    def whole_subject(self) -> str:
        """The name of the model and defense, whole."""
        return str(self.verdict.subject or self.verdict.gate.model or "no model")

    def __str__(self) -> str:
        return f"on {self.subject}, {self.quantity} is {self.measured}, and {self.demand}"


@dataclass(frozen=True, kw_only=True)
class RunVerdict:
    """What the gates of a run come to, its lines grouped with the failed gates first."""

    ruling: RunRuling
    """The verdict; it agrees with the exit code of ``rbl gate``."""
    sentence: str
    """The verdict in one sentence."""
    advice: str
    """What it means for a deployment."""
    failed: tuple[VerdictLine, ...] = ()
    """Gates that fail."""
    undecided: tuple[VerdictLine, ...] = ()
    """Gates that are inconclusive."""
    not_counted: tuple[VerdictLine, ...] = ()
    """Gates that do not pass and do not decide: they only warn, are waived, or have nothing to compare."""
    passed: tuple[VerdictLine, ...] = ()
    """Gates that pass."""

    @property
    def label(self) -> str:
        """The verdict in capitals."""
        return "NO GATE DECIDES" if self.ruling == "none" and self.not_counted else _LABELS[self.ruling]

    def to_json(self) -> dict[str, Any]:
        """Return ``ruling``, ``advice`` and ``sentence``."""
        return {"ruling": self.ruling, "advice": self.advice, "sentence": self.sentence}


def build_run_verdict(evidence: Evidence, report: GateReport) -> RunVerdict:
    """Build the verdict of a run from those of its gates.

    Args:
        evidence: The run.
        report: The verdicts of its gates.
    """
    if report.violations:
        sentence = "A certificate and an attack contradict each other, so one of the two is wrong."
        return RunVerdict(ruling="invalid", sentence=sentence, advice=_describe_advice("invalid", ()))
    if report.unread_reason:
        sentence = _end_sentence(report.unread_reason)
        return RunVerdict(
            ruling="inconclusive", sentence=sentence, advice=_describe_advice("inconclusive", ())
        )
    if not report.verdicts:
        sentence = _describe_distrust(evidence)
        return RunVerdict(ruling="none", sentence=sentence, advice=_describe_advice("none", ()))
    lines = [_describe_line(evidence, verdict) for verdict in report.verdicts]
    failed = tuple(line for line in lines if line.verdict.status == "fail")
    undecided = tuple(
        line for line in lines if line.verdict.status == "inconclusive" and line.verdict.gate.level == "error"
    )
    passed = tuple(line for line in lines if line.verdict.status == "pass")
    decided = {id(line) for line in (*failed, *undecided, *passed)}
    ruling: RunRuling = "fail" if failed else "inconclusive" if undecided else "pass" if passed else "none"
    return RunVerdict(
        ruling=ruling,
        sentence=_describe_lines(ruling, failed or undecided or passed, lines),
        advice=_describe_advice(ruling, failed or undecided or passed) + _describe_rest(failed, undecided),
        failed=failed,
        undecided=undecided,
        not_counted=tuple(line for line in lines if id(line) not in decided),
        passed=passed,
    )


def _describe_lines(ruling: RunRuling, named: Sequence[VerdictLine], lines: Sequence[VerdictLine]) -> str:
    """Describe a verdict by the first gate that decides it, and count the others."""
    total, count = len(lines), len(named)
    if not named:
        first = lines[0]
        more = f" {total - 1:,} more do not decide either." if total > 1 else ""
        return f"{str(first)[:1].upper()}{str(first)[1:]} ({_UNCOUNTED_REASONS[first.verdict.status]}).{more}"
    verb = {
        "fail": choose_form(count, "is not met", "are not met"),
        "inconclusive": choose_form(count, "is not decided", "are not decided"),
    }.get(ruling, choose_form(count, "is met", "are met"))
    head = f"The limit {verb}" if total == 1 else f"{count:,} of {format_count(total, 'limit')} {verb}"
    if count == total > 1:
        head = f"All {format_count(total, 'limit')} {verb}"
    first = named[0]
    reason = f"; {first.remark}" if ruling == "inconclusive" and first.remark else ""
    sound = _list_sound_subjects(lines) if ruling != "pass" else []
    others = ""
    if sound and len(sound) <= MAX_NAMED_MODELS:
        meets = choose_form(len(sound), "meets every limit", "meet every limit")
        others = f". {join_in_sentence(sound)} {meets}"
    elif sound:
        others = f". {format_count(len(sound), 'other model')} meet every limit"
    return f"{head}: {first}{reason}{others}."


def _describe_advice(ruling: RunRuling, lines: Sequence[VerdictLine]) -> str:
    """Describe what a verdict means for a deployment of the models that it is about."""
    names = list(dict.fromkeys(line.subject for line in lines if line.verdict.subject is not None))
    if not names or len(names) > MAX_NAMED_MODELS:
        models = f"these {len(names):,} models" if names else _ANY_MODEL
    else:
        models = join_in_sentence(names)
    return _ADVICE[ruling].format(models=models)


def _describe_rest(failed: Sequence[VerdictLine], undecided: Sequence[VerdictLine]) -> str:
    """Describe, beside models that fail, what is not decided about others; empty if nothing."""
    names = {line.subject for line in failed}
    others = [line for line in undecided if line.subject not in names and line.verdict.subject is not None]
    return f" {_describe_advice('inconclusive', others)}" if failed and others else ""


def _list_sound_subjects(lines: Sequence[VerdictLine]) -> list[str]:
    """List the models of which every gate passes."""
    others = {line.subject for line in lines if line.verdict.status != "pass"}
    return [name for name in dict.fromkeys(line.subject for line in lines) if name not in others]


def _describe_line(evidence: Evidence, verdict: GateVerdict) -> VerdictLine:
    return VerdictLine(
        subject=_shorten_name(verdict.subject or verdict.gate.model or "no model"),
        quantity=_describe_quantity(evidence, verdict),
        measured=_format_measured(verdict),
        demand=_describe_demand(verdict.gate),
        remark=_describe_remark(evidence, verdict),
        verdict=verdict,
    )


def _describe_remark(evidence: Evidence, verdict: GateVerdict) -> str:
    """Describe what the reason says beyond the value, with short names of attacks."""
    remark = re.sub("^straddles the limit", "the interval straddles the limit", verdict.explanation)
    for label in sorted({cell.label for cell in evidence.cells}, key=len, reverse=True):
        if len(label) > MAX_NAME_CHARACTERS:
            remark = remark.replace(label, _shorten_name(label))
    return remark


def _shorten_name(name: object) -> str:
    return isolate_direction(shorten_text(str(name), MAX_NAME_CHARACTERS))


def _describe_quantity(evidence: Evidence, verdict: GateVerdict) -> str:
    gate = verdict.gate
    name = _METRIC_NAMES.get(gate.metric, gate.metric.replace("_", " "))
    if gate.is_drop:
        name = f"drop of {name}"
    if gate.tries is not None:
        name += f" in {format_count(gate.tries, 'try')}"
    if gate.true_class is not None:
        name += f" on images of {_shorten_name(gate.true_class)}"
    under = _name_threat(evidence, gate.threat) if gate.threat else _name_attack_threat(evidence, verdict)
    if gate.attack:
        under = ", ".join(filter(None, [_shorten_name(verdict.attack_label or gate.attack), under]))
    if not under and gate.load:
        under = _shorten_name(gate.load)
    return f"{name} under {under}" if under else name


def _name_threat(evidence: Evidence, name: str) -> str:
    """Name a threat model by its budget: ``L-infinity at most 8/255``."""
    threats = (cell.threat for cell in evidence.cells if cell.record.threat == name)
    threat = next(threats, None)
    return _shorten_name(name) if threat is None or threat.sources else str(threat)


def _name_attack_threat(evidence: Evidence, verdict: GateVerdict) -> str:
    """Name the budget of the attack that a gate names; empty if its label has it, or several ran."""
    budgets = {
        format_budget(cell.record.norm, cell.record.eps, cell.record.surface)
        for cell in evidence.attack_cells
        if cell.subject == verdict.subject and verdict.gate.attack in {cell.record.attack, cell.record.card}
    }
    is_named = ", eps " in verdict.attack_label or len(budgets) != 1
    return "" if is_named else budgets.pop()


def _describe_demand(gate: Gate) -> str:
    side = "at least" if gate.min is not None else "at most"
    limit = format_points(gate.limit) if gate.is_drop else format_limit_value(gate)
    return f"{_LIMITED_ENDS[gate.bound]} must be {side} {limit}"


def _format_measured(verdict: GateVerdict) -> str:
    """Format the value of a verdict with its interval and n."""
    gate, estimate = verdict.gate, verdict.estimate
    if verdict.drop is not None and verdict.drop.is_known:
        return f"{format_points(verdict.drop.value)} ({format_split(verdict.drop)}, n = {verdict.drop.n:,})"
    if not estimate.is_known:
        return "not measured"
    if gate.metric in LOAD_METRICS:
        return f"{format_load_estimate(estimate)} {LOAD_UNITS[gate.metric]} (n = {estimate.n:,})"
    if gate.metric == "median_distance":
        return verdict.reason.partition(";")[0].removesuffix(" straddles the limit")
    return format_estimate(estimate)


def _describe_distrust(evidence: Evidence) -> str:
    """Describe, for a run without gates, how many models have no number that can be used."""
    threat = evidence.headline_threat
    if threat is None:
        return ""
    blocked = [subject for subject in evidence.subjects if select_blocks(evidence, subject)]
    distrusted = [one for one in evidence.subjects if select_distrust(evidence, one, threat)]
    void, doubtful = len(blocked), len(set(distrusted) - set(blocked))
    parts = []
    if void:
        parts.append(f"{format_count(void, 'model')} {choose_form(void, 'has', 'have')} no usable number")
    if doubtful:
        whose = choose_form(doubtful, "the number of 1 model is", f"the numbers of {doubtful:,} models are")
        parts.append(f"{whose} not trustworthy")
    return _end_sentence(join_in_sentence(parts)) if parts else ""


def _end_sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
