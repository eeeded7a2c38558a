"""Data types of gates: the limit, the verdict on a model, and the report over all verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from robustbench_local.config.gate_choices import (
    CLASS_METRICS,
    LOAD_METRICS,
    UNBOUNDED_METRICS,
    GateLevel,
    GateMetric,
    IntervalBound,
    TrustPolicy,
    check_load_gate,
)
from robustbench_local.errors import ConfigError
from robustbench_local.paired_difference import PairedDifference
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.gate_waivers import Waiver
from robustbench_local.reports.formatting.text import (
    format_amount,
    format_estimate,
    format_p_value,
    format_percent,
    format_radius,
    join_in_sentence,
)
from robustbench_local.resubmission_statistics import MAX_TRIES
from robustbench_local.statistics import Estimate

Ruling = Literal["pass", "fail", "inconclusive", "skipped"]
"""The result of a comparison with a limit; ``skipped``: there is nothing to compare, nor need there be."""
GateStatus = Literal["pass", "fail", "warn", "inconclusive", "waived", "skipped"]
"""What a gate comes to: its ruling, or for a failure ``warn`` (it only warns) or ``waived`` (somebody accepts
it)."""
LOAD_UNITS: Mapping[GateMetric, str] = {"p95_ms": "ms", "throughput": "images/s"}
"""Units of the metrics of load tests."""
_CHOICES = (("metric", GateMetric), ("on", IntervalBound), ("level", GateLevel), ("trust", TrustPolicy))


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One limit of the grid file.

    Args:
        id: Name of the gate in waivers and CI reports; empty: `derived_id`.
        metric: The limited quantity.
        threat: Threat name, e.g. ``linf-8``: the worst case over its untargeted attacks.
        attack: An attack's card or name: that attack alone.
        model: Only this model; None: every model, each for itself.
        defense: Only this defense, ``none`` for models without one; None: all.
        true_class: Only the images of this class, by name or index; None: all images.
        min: Least value that passes: a share in [0, 1], or a distance.
        max: Largest value that passes.
        max_drop: Largest drop against a baseline that passes, a share in [0, 1].
        tries: How often the attacker may submit each adversarial example; for ``resubmission_success``.
        load: Name of a load; for ``p95_ms`` and ``throughput``.
        on: Which end of the 95% interval, or the estimate itself, must keep the limit.
        level: ``error`` gates decide the exit code, ``warn`` gates only print.
        trust: ``require``: a gate on a number that a diagnostic finds not trustworthy is inconclusive;
            ``ignore``: it may pass, and its verdict says so.

    Raises:
        ConfigError: If it has no limit, or two, or a value out of range.
    """

    id: str = ""
    metric: GateMetric = "robust_accuracy"
    threat: str | None = None
    attack: str | None = None
    model: str | None = None
    defense: str | None = None
    true_class: str | int | None = None
    min: float | None = None
    max: float | None = None
    max_drop: float | None = None
    tries: int | None = None
    load: str | None = None
    on: IntervalBound | None = None
    level: GateLevel = "error"
    trust: TrustPolicy = "require"

    def __post_init__(self) -> None:
        for key, choices in _CHOICES:
            value = getattr(self, key)
            if value not in get_args(choices) and not (key == "on" and value is None):
                raise ConfigError(
                    f"{key} must be one of {', '.join(get_args(choices))}, got {value!r}", where="gates"
                )
        if sum(limit is not None for limit in (self.min, self.max, self.max_drop)) != 1:
            raise ConfigError("a gate needs either min or max", where="gates")
        if self.metric not in UNBOUNDED_METRICS and not 0 <= self.limit <= 1:
            raise ConfigError(f"a limit is a share between 0 and 1, got {self.limit}", where="gates")
        if not (0 <= self.limit < math.inf):
            raise ConfigError(f"a limit is 0 or more, got {self.limit}", where="gates")
        try:
            check_load_gate(self.metric, self)
        except ValueError as error:
            raise ConfigError(str(error), where="gates") from None
        if self.metric in LOAD_METRICS:
            return
        if self.metric != "clean_accuracy" and self.threat is None and self.attack is None:
            raise ConfigError(f"a gate on {self.metric} needs a threat or an attack", where="gates")
        if self.true_class is not None and self.metric not in CLASS_METRICS:
            raise ConfigError(f"a gate on {self.metric} takes no true_class", where="gates")
        if (self.metric == "resubmission_success") != (self.tries is not None):
            raise ConfigError("resubmission_success needs tries, and no other metric takes it", where="gates")
        if self.tries is not None and (not 1 <= self.tries <= MAX_TRIES or self.max is None):
            raise ConfigError(
                f"resubmission_success needs max, and tries from 1 to {MAX_TRIES}", where="gates"
            )

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> Gate:
        """Build a gate from an entry of the grid file.

        Raises:
            ConfigError: If it has unknown keys or impossible values.
        """
        values = {key: value for key, value in entry.items() if value is not None}
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            known = join_in_sentence(list(cls.__dataclass_fields__))
            raise ConfigError(f"unknown key {unknown[0]!r}", where="gates", remedy=f"use {known}")
        return cls(**values)

    @property
    def limit(self) -> float:
        """The limit."""
        given = [limit for limit in (self.min, self.max, self.max_drop) if limit is not None]
        return float(given[0]) if given else math.nan

    @property
    def derived_id(self) -> str:
        """A name made of what the gate limits, such as ``robust_accuracy[linf-8]``; not always unique."""
        details = [self.threat, self.attack, self.true_class, self.tries and f"{self.tries} tries", self.load]
        inside = ", ".join(str(detail) for detail in details if detail is not None)
        name = f"{self.metric}[{inside}]" if inside else self.metric
        return f"{name} drop" if self.max_drop is not None else name

    @property
    def is_drop(self) -> bool:
        """Whether it limits the drop against a baseline."""
        return self.max_drop is not None

    @property
    def bound(self) -> IntervalBound:
        """The deciding end of the interval; by default the end that is worse for passing."""
        return self.on or ("lower" if self.min is not None else "upper")

    def select_bound(self, estimate: Estimate) -> float:
        """Return the deciding end of an estimate."""
        return {"lower": estimate.low, "estimate": estimate.value, "upper": estimate.high}[self.bound]

    def is_kept_by(self, value: float) -> bool:
        """Return whether a value keeps the limit."""
        return value >= self.limit if self.min is not None else value <= self.limit

    def __str__(self) -> str:
        return self.describe_limit()

    def describe_limit(self, attack_label: str = "") -> str:
        """Describe the limit in words.

        Args:
            attack_label: Label in tables of the attack that the gate names; empty: the gate's own name.
        """
        sign = "\N{GREATER-THAN OR EQUAL TO}" if self.min is not None else "\N{LESS-THAN OR EQUAL TO}"
        what = self.threat or attack_label or self.attack
        tries = "" if self.tries is None else f"{self.tries:,} tries"
        images = "" if self.true_class is None else f"images of {self.true_class}"
        details = ", ".join(filter(None, [what, tries, images, self.load]))
        where = f" ({details})" if details else ""
        basis = "the estimate" if self.bound == "estimate" else f"the {self.bound} bound"
        limit = format_limit_value(self)
        name = "p95 latency" if self.metric == "p95_ms" else self.metric.replace("_", " ")
        if self.is_drop:
            name, limit = f"drop of {name}", format_points(self.limit)
        return f"{name}{where} {sign} {limit} on {basis}"


@dataclass(frozen=True, kw_only=True)
class GateVerdict:
    """The verdict of a gate on one model."""

    gate: Gate
    """The limit."""
    subject: EvaluatedModel | None
    """The model and defense; None if the run has none that the gate concerns."""
    estimate: Estimate
    """The measured value; a distance beyond the searched radius is infinite."""
    ruling: Ruling
    """``inconclusive`` when the interval straddles the limit, something is missing, or images are in doubt
    whose robustness would change the ruling."""
    reason: str
    """The reason in one line."""
    attack_label: str = ""
    """Label in tables of the attack that the gate names; empty if it names none."""
    drop: PairedDifference | None = None
    """For a gate on a drop: the baseline's share less that of the run, over the same images."""
    waiver: Waiver | None = None
    """The waiver that covers the failure, if any."""

    @property
    def limit_text(self) -> str:
        """The limit in words."""
        return self.gate.describe_limit(self.attack_label)

    @property
    def status(self) -> GateStatus:
        """What the gate comes to."""
        if self.ruling != "fail":
            return self.ruling
        if self.waiver is not None:
            return "waived"
        return "warn" if self.gate.level == "warn" else "fail"

    @property
    def explanation(self) -> str:
        """The reason without the value that its line shows; empty if it says no more than that."""
        shown = format_split(self.drop) if self.drop else format_estimate(self.estimate)
        if self.gate.metric in LOAD_METRICS:
            shown = format_load_estimate(self.estimate)
        rest = self.reason.removeprefix(shown).lstrip(" ,;:")
        covered = f"waived: {self.waiver.terms}" if self.waiver else ""
        return "; ".join(filter(None, [covered, rest]))


def format_points(share: float) -> str:
    """Format the limit of a drop: ``2 points``."""
    number = f"{100 * share:.4g}"
    return f"{number} point" if number == "1" else f"{number} points"


def format_limit_value(gate: Gate) -> str:
    """Format a limit that is no drop: ``20%``, ``8/255``, ``50 ms`` or ``200 images/s``."""
    if gate.metric in LOAD_METRICS:
        return f"{gate.limit:g} {LOAD_UNITS[gate.metric]}"
    return format_radius(gate.limit) if gate.metric == "median_distance" else format_percent(gate.limit)


def format_load_estimate(estimate: Estimate) -> str:
    """Format a figure of a load test with its interval: ``12.3 [11.9, 14]``."""
    return (
        f"{format_amount(estimate.value)} [{format_amount(estimate.low)}, {format_amount(estimate.high)}]"
        if estimate.is_known
        else "not measured"
    )


def format_split(drop: PairedDifference) -> str:
    """Format the images that changed sides: ``12 lost, 3 won, p = 0.035``."""
    return f"{drop.only_first:,} lost, {drop.only_second:,} won, {format_p_value(drop.p_value)}"


def assign_gate_ids(gates: Sequence[Gate]) -> list[Gate]:
    """Return the gates with a unique id each: their own, or a derived one with a number if it is taken."""
    taken = {gate.id for gate in gates if gate.id}
    named: list[Gate] = []
    for gate in gates:
        gate_id, number = gate.id or gate.derived_id, 1
        while not gate.id and gate_id in taken:
            number += 1
            gate_id = f"{gate.derived_id} #{number}"
        taken.add(gate_id)
        named.append(replace(gate, id=gate_id))
    return named
