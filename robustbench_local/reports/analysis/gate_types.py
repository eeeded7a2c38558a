"""Data types of gates: the limit, the verdict on a model, and the report over all verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from robustbench_local.config.gate_choices import (
    CLASS_METRICS,
    GateLevel,
    GateMetric,
    IntervalBound,
    TrustPolicy,
)
from robustbench_local.errors import ConfigError, InvariantError
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.formatting.text import format_percent, format_radius, join_in_sentence
from robustbench_local.resubmission_statistics import MAX_TRIES
from robustbench_local.statistics import Estimate

Ruling = Literal["pass", "fail", "inconclusive"]

EXIT_FAILED, EXIT_INCONCLUSIVE = 1, 4
EXIT_BLOCKED = InvariantError.exit_code
"""Exit code of a violated certificate: the numbers of the run are unreliable, whatever the gates."""


_CHOICES = (("metric", GateMetric), ("on", IntervalBound), ("level", GateLevel), ("trust", TrustPolicy))


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One limit of the grid file.

    Args:
        metric: The limited quantity.
        threat: Threat name, e.g. ``linf-8``: the worst case over its untargeted attacks.
        attack: An attack's card or name: that attack alone.
        model: Only this model; None: every model, each for itself.
        defense: Only this defense, ``none`` for models without one; None: all.
        true_class: Only the images of this class, by name or index; None: all images.
        min: Least value that passes: a share in [0, 1], or a distance.
        max: Largest value that passes.
        tries: How often the attacker may submit each adversarial example; for ``resubmission_success``.
        on: Which end of the 95% interval, or the estimate itself, must keep the limit.
        level: ``error`` gates decide the exit code, ``warn`` gates only print.
        trust: ``require``: a gate on a number that a diagnostic finds not trustworthy is inconclusive;
            ``ignore``: it may pass, and its verdict says so.

    Raises:
        ConfigError: If it has no limit, or two, or a value out of range.
    """

    metric: GateMetric = "robust_accuracy"
    threat: str | None = None
    attack: str | None = None
    model: str | None = None
    defense: str | None = None
    true_class: str | int | None = None
    min: float | None = None
    max: float | None = None
    tries: int | None = None
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
        if (self.min is None) == (self.max is None):
            raise ConfigError("a gate needs either min or max", where="gates")
        if self.metric != "median_distance" and not 0 <= self.limit <= 1:
            raise ConfigError(f"a limit is a share between 0 and 1, got {self.limit}", where="gates")
        if not (0 <= self.limit < math.inf):
            raise ConfigError(f"a distance is 0 or more, got {self.limit}", where="gates")
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
        return float(self.min if self.min is not None else self.max if self.max is not None else math.nan)

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
        details = ", ".join(filter(None, [what, tries, images]))
        where = f" ({details})" if details else ""
        basis = "the estimate" if self.bound == "estimate" else f"the {self.bound} bound"
        limit = format_radius(self.limit) if self.metric == "median_distance" else format_percent(self.limit)
        return f"{self.metric.replace('_', ' ')}{where} {sign} {limit} on {basis}"


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

    @property
    def limit_text(self) -> str:
        """The limit in words."""
        return self.gate.describe_limit(self.attack_label)

    @property
    def summary_line(self) -> str:
        """The verdict in one line, for the terminal."""
        who = str(self.subject) if self.subject else (self.gate.model or "no model")
        warning = ", a warning only" if self.gate.level == "warn" and self.ruling != "pass" else ""
        return f"{self.ruling}: {who}: {self.limit_text}: {self.reason}{warning}"


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """All verdicts of a run."""

    verdicts: tuple[GateVerdict, ...]
    """In the order of the gates, then of the models."""
    violations: tuple[str, ...] = ()
    """Certificates contradicted by attacks (diagnostic D25), one line each; no number is reliable then."""
    unread_reason: str = ""
    """The reason why the gates are unknown; empty if they are known."""

    @property
    def exit_code(self) -> int:
        """The exit code: 70 if a certificate is violated, 1 if a gate fails, 4 if one is undecided, or 0.

        Unread gates are undecided. Gates of level ``warn`` do not count.
        """
        if self.violations:
            return EXIT_BLOCKED
        if self.unread_reason:
            return EXIT_INCONCLUSIVE
        rulings = {verdict.ruling for verdict in self.verdicts if verdict.gate.level == "error"}
        return EXIT_FAILED if "fail" in rulings else EXIT_INCONCLUSIVE if "inconclusive" in rulings else 0

    @property
    def summary_lines(self) -> list[str]:
        """One line per verdict; one line that says so if there is no gate."""
        judged = [verdict.summary_line for verdict in self.verdicts]
        blocked = [f"blocked: certificate violated: {line}" for line in self.violations]
        return [*blocked, *judged] or [self.unread_reason or "the grid file has no gates"]
