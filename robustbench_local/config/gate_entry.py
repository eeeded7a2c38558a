"""A gate as a grid file or a policy writes it: a limit on a result, checked before anything is judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from robustbench_local.config.display_names import check_display_name
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
from robustbench_local.config.strict_yaml import StrictModel
from robustbench_local.number_parser import parse_number
from robustbench_local.resubmission_statistics import MAX_TRIES
from robustbench_local.threats.threat_model import FAMILY_NAMES


def parse_limit(value: Any, info: ValidationInfo) -> Any:
    """Parse a limit: a number, a fraction such as ``8/255``, or a percentage such as ``20%``.

    Raises:
        ValueError: If it is none of them, or a distance is written as a percentage.
    """
    if value is None:
        return None
    is_percentage = isinstance(value, str) and value.rstrip().endswith("%")
    if is_percentage and info.data.get("metric") in UNBOUNDED_METRICS:
        what = "a distance" if info.data["metric"] == "median_distance" else info.data["metric"]
        raise ValueError(f"{what} is not a percentage")
    try:
        return parse_number(value.rstrip()[:-1]) / 100 if is_percentage else parse_number(value)
    except ValueError:
        raise ValueError(
            'cannot read the limit: write a number, a percentage such as 20% or a fraction such as "8/255"'
        ) from None


Limit = Annotated[float, BeforeValidator(parse_limit), Field(ge=0)]
GateId = Annotated[str, AfterValidator(check_display_name)]


class GateEntry(StrictModel):
    """A limit on a result: a metric, a threat model or an attack, and ``min`` or ``max``."""

    id: GateId | None = None
    """Name of the gate in waivers and CI reports; unique. By default derived from what it limits, such as
    ``robust_accuracy[linf-8]``."""
    metric: GateMetric = "robust_accuracy"
    """What is judged."""
    threat: str | None = None
    """Short name of a threat model, such as ``linf-8``, ``l2-0.5``, ``fog-3`` or ``sticker-10``: the gate
    judges the worst case over its attacks."""
    attack: str | None = None
    """Name of one attack as the report shows it: the gate judges this attack alone."""
    model: str | None = None
    """Id of the model; by default every model must pass."""
    defense: str | None = None
    """Name of the defense; by default every defense must pass."""
    true_class: str | int | None = None
    """Judge only the images of this class: its name, the beginning of its name, or its index."""
    min: Limit | None = None
    """Smallest allowed value, such as ``0.2`` or ``20%``."""
    max: Limit | None = None
    """Largest allowed value."""
    tries: Annotated[int, Field(ge=1, le=MAX_TRIES)] | None = None
    """For ``resubmission_success``: how often the attacker may submit each adversarial example, at most
    1000."""
    load: Annotated[str, Field(min_length=1, max_length=60)] | None = None
    """For ``p95_ms`` and ``throughput``: name of a load as ``rbl load-test`` prints it, such as ``b8-c4``. By
    default ``p95_ms`` judges each load, and ``throughput`` the closed loop with the highest."""
    on: IntervalBound | None = None
    """Which end of the 95% interval must keep the limit; by default ``lower`` for ``min`` and ``upper``
    for ``max``."""
    level: GateLevel = "error"
    """``error`` gives exit code 1 if the gate fails; ``warn`` only prints a line."""
    trust: TrustPolicy = "require"
    """``require``: the gate is inconclusive if a diagnostic finds the number not trustworthy; ``ignore``:
    it may pass all the same, and its verdict says so."""

    @field_validator("min", "max")
    @classmethod
    def _check_share_limit(cls, limit: float | None, info: ValidationInfo) -> float | None:
        if limit is not None and limit > 1 and info.data.get("metric") not in UNBOUNDED_METRICS:
            raise ValueError(f"a limit is a share between 0 and 1, got {limit:g}")
        return limit

    @model_validator(mode="after")
    def _check_gate(self) -> GateEntry:
        self._check_limits()
        check_load_gate(self.metric, self)
        if self.metric in LOAD_METRICS:
            return self
        if self.metric != "clean_accuracy" and self.threat is None and self.attack is None:
            raise ValueError("a gate needs a threat such as linf-8, or an attack")
        if self.true_class is not None and self.metric not in CLASS_METRICS:
            raise ValueError(f"a gate on {self.metric} takes no true_class")
        if (self.metric == "resubmission_success") != (self.tries is not None):
            raise ValueError("resubmission_success needs tries, and no other metric takes it")
        if self.metric == "resubmission_success" and self.max is None:
            raise ValueError("resubmission_success is limited by max")
        if self.threat is not None:
            self._check_threat(self.threat)
        return self

    def _check_limits(self) -> None:
        if (self.min is None) == (self.max is None):
            raise ValueError("a gate needs either min or max")

    def _check_threat(self, threat: str) -> None:
        if threat.partition("-")[0] not in FAMILY_NAMES:
            raise ValueError(f"a threat is written like linf-8, l2-0.5 or fog-3, got {threat!r}")


def check_gate_ids(gates: Sequence[GateEntry]) -> None:
    """Refuse an id that two gates share: a waiver could not say which one it means.

    Raises:
        ValueError: If there is one.
    """
    ids = [gate.id for gate in gates if gate.id is not None]
    for gate_id in ids:
        if ids.count(gate_id) > 1:
            raise ValueError(f"the gate id {gate_id!r} is used twice")
