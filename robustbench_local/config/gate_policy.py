"""Policies: files with the gates of a release, and the failures that somebody accepts for a while."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from robustbench_local.config.display_names import check_display_name
from robustbench_local.config.gate_choices import GateMetric
from robustbench_local.config.gate_entry import GateEntry, GateId, Limit, check_gate_ids
from robustbench_local.config.strict_yaml import (
    MAX_YAML_BYTES,
    StrictModel,
    decode_yaml,
    find_item_lines,
    validate,
)
from robustbench_local.config.user_files import read_user_file
from robustbench_local.errors import ConfigError, did_you_mean, escape_unprintable

DROP_METRICS: frozenset[GateMetric] = frozenset({"robust_accuracy", "clean_accuracy", "certified_accuracy"})
"""Metrics whose drop against a baseline a gate may limit: shares of the same images, larger is better."""
PER_CLASS_METRICS: frozenset[GateMetric] = frozenset({"robust_accuracy", "clean_accuracy"})
"""Metrics that a gate may limit for each class by itself."""
HEADLINE = "headline"
"""The threat model of the report's answer."""
MAX_TEXT_CHARACTERS = 300
"""Longest reason or owner of a waiver: each stands in one line."""
_PATTERN = re.compile(r"[a-z0-9_.*?-]*[*?][a-z0-9_.*?-]*")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def is_threat_pattern(threat: str | None) -> bool:
    """Return whether a policy's threat stands for those of the run: ``headline``, ``*`` or ``linf-*``."""
    return threat is not None and (threat == HEADLINE or _PATTERN.fullmatch(threat) is not None)


def _check_text(text: str) -> str:
    """Refuse a reason or an owner that is empty, too long or not printable on one line."""
    if not text.strip():
        raise ValueError("it must not be empty")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise ValueError(f"it has at most {MAX_TEXT_CHARACTERS} characters, got {len(text)}")
    shown = " ".join(text.split())
    if escape_unprintable(shown) != shown:
        raise ValueError("it must consist of printable characters")
    return shown


def _parse_date(value: Any) -> Any:
    """Parse a day as YYYY-MM-DD; YAML's own dates stay text in our files."""
    if isinstance(value, date):
        return value
    try:
        if isinstance(value, str) and _DATE.fullmatch(value):
            return date.fromisoformat(value)
    except ValueError:
        pass
    raise ValueError("write a day as YYYY-MM-DD")


Text = Annotated[str, AfterValidator(_check_text)]
Day = Annotated[date, BeforeValidator(_parse_date)]


class PolicyGateEntry(GateEntry):
    """A gate of a policy: as in a grid file, or on a largest drop, each class, or several threat models."""

    threat: str | None = None
    """Short name of a threat model such as ``linf-8``; ``headline``, that of the report's answer; or a
    pattern such as ``"*"`` or ``"linf-*"``, for each threat model of the run that it matches."""
    max_drop: Limit | None = None
    """In place of ``min`` and ``max``: the largest drop against ``--baseline``, such as ``2%`` for 2 points,
    image by image over the same images. ``on`` is an end of its 95% interval, by default ``upper``."""
    per_class: bool = False
    """Judge each class by itself, with intervals corrected for the number of classes; for
    ``robust_accuracy`` and ``clean_accuracy``."""

    @model_validator(mode="after")
    def _check_policy_gate(self) -> PolicyGateEntry:
        if self.max_drop is not None and self.metric not in DROP_METRICS:
            raise ValueError(f"max_drop limits {', '.join(sorted(DROP_METRICS))}, got {self.metric}")
        if self.max_drop is not None and self.max_drop > 1:
            raise ValueError(f"max_drop is a share between 0 and 1 such as 2%, got {self.max_drop:g}")
        if self.per_class and self.metric not in PER_CLASS_METRICS:
            raise ValueError(f"per_class goes with {' or '.join(sorted(PER_CLASS_METRICS))}")
        if self.per_class and self.true_class is not None:
            raise ValueError("a gate takes either true_class or per_class")
        return self

    def _check_limits(self) -> None:
        if sum(limit is not None for limit in (self.min, self.max, self.max_drop)) != 1:
            raise ValueError("a gate needs one of min, max and max_drop")

    def _check_threat(self, threat: str) -> None:
        if not is_threat_pattern(threat):
            super()._check_threat(threat)


class WaiverEntry(StrictModel):
    """A failure that somebody accepts until a day; it is shown as waived, never as passed."""

    id: GateId
    """Id of the gate whose failure is accepted, given or derived."""
    reason: Text
    """Why it is accepted."""
    owner: Text
    """Who accepts it."""
    expiry: Day
    """The last day on which the waiver counts, as ``YYYY-MM-DD`` in UTC."""
    model: str | None = None
    """Id of the model; by default every model."""
    defense: str | None = None
    """Name of the defense; by default every defense."""
    threat: str | None = None
    """Short name of the threat model, for a gate on several; by default every one."""


class Policy(StrictModel):
    """A whole policy file."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    """Version of the file format."""
    name: Annotated[str, AfterValidator(check_display_name)] | None = None
    """Name of the policy in reports; by default the file's name."""
    description: str | None = None
    """What it is for."""
    run_gates: bool = False
    """Whether the gates of the run's own grid file are judged as well, before those of the policy."""
    baseline: Literal["required", "optional"] = "required"
    """Without ``--baseline``, a gate on a drop is inconclusive (``required``) or skipped (``optional``)."""
    gates: list[PolicyGateEntry] = Field(default_factory=list)
    """The limits."""
    waivers: list[WaiverEntry] = Field(default_factory=list)
    """Failures that are accepted for a while."""

    @model_validator(mode="after")
    def _check_policy(self) -> Policy:
        if not self.gates and not self.run_gates:
            raise ValueError("a policy needs gates, or run_gates: true")
        check_gate_ids(self.gates)
        return self


@dataclass(frozen=True, kw_only=True)
class LoadedPolicy:
    """A policy and where it was read from."""

    policy: Policy
    """The policy; it has a name."""
    path: Path | None = None
    """The file; None for a ready-made one."""
    gate_lines: tuple[int, ...] = ()
    """Line of each gate in the file, from 1."""

    @property
    def name(self) -> str:
        """Name of the policy in reports."""
        return self.policy.name or "policy"


def list_policies() -> dict[str, str]:
    """List the ready-made policies: name and description."""
    folder = resources.files("robustbench_local") / "policies"
    names = sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )
    return {name: _load_ready_made(name).policy.description or "" for name in names}


def load_policy(source: str) -> LoadedPolicy:
    """Load a policy.

    Args:
        source: A file, or the name of a ready-made policy. A name with a slash, or one that ends with
            ``.yaml`` or ``.yml``, is always a file.

    Raises:
        ConfigError: If it does not exist or is malformed; the message names the key.
    """
    path, names = Path(source), list_policies()
    if "/" in source or path.suffix in {".yaml", ".yml"}:
        return _load_file(path)
    if source in names:
        return _load_ready_made(source)
    if path.is_file():
        return _load_file(path)
    remedy = f"{did_you_mean(source, names).removesuffix('?')}; a file of your own ends with .yaml"
    raise ConfigError(f"there is no policy {source!r}", where="--policy", remedy=remedy)


def read_policy_text(name: str) -> str:
    """Return the text of a ready-made policy.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in list_policies():
        raise ConfigError(f"there is no policy {name!r}", remedy=did_you_mean(name, list_policies()))
    return _read_resource(name).decode("utf-8")


def _read_resource(name: str) -> bytes:
    return (resources.files("robustbench_local") / "policies" / f"{name}.yaml").read_bytes()


def _load_ready_made(name: str) -> LoadedPolicy:
    return _parse_policy(_read_resource(name), where=f"the policy {name}", default_name=name)


def _load_file(path: Path) -> LoadedPolicy:
    content = read_user_file(path, error=ConfigError, limit=MAX_YAML_BYTES)
    return _parse_policy(content, where=str(path), default_name=path.stem, path=path)


def _parse_policy(content: bytes, *, where: str, default_name: str, path: Path | None = None) -> LoadedPolicy:
    policy = validate(
        Policy, decode_yaml(content, where=where, error=ConfigError), where=where, error=ConfigError
    )
    if policy.name is None:
        shown = escape_unprintable(default_name)[:60].strip() or "policy"
        policy = policy.model_copy(update={"name": shown})
    return LoadedPolicy(
        policy=policy, path=path, gate_lines=find_item_lines(content.decode("utf-8-sig"), "gates")
    )
