"""The records of diagnostics: what a check of a model, or of the results of its attacks, found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

DIAGNOSTICS_KEY = "diagnostics"
"""Metadata key of the diagnostics that asked the models of a run; missing in older runs."""

DiagnosticStatus = Literal["block", "fail", "warn", "info", "ok", "not run"]
"""``block``: no robustness number is stated. ``fail``: the number is not trustworthy, and no gate on it
passes. ``warn``: the number needs a caveat. ``info``: worth knowing. ``ok``: nothing found. ``not run``: not
checked."""
STATUS_ORDER: tuple[DiagnosticStatus, ...] = ("block", "fail", "warn", "info", "ok", "not run")
"""The most serious status first."""
UNTRUSTED_STATUSES = frozenset({"block", "fail"})
"""Statuses with which no gate passes."""


@dataclass(frozen=True, kw_only=True)
class DiagnosticResult:
    """The result of one diagnostic for one model with its defense."""

    id: str
    """``D7`` for example; docs/explanation/trust.md has the list."""
    name: str
    """What is checked, in a few words."""
    model: str
    """Model id from the grid file."""
    defense: str = "none"
    """Name of the defense."""
    threat: str | None = None
    """Short name of the threat model, or of its norm; None if it concerns the model under every one."""
    status: DiagnosticStatus
    """What was found."""
    sentence: str
    """The finding with its figure, one sentence that ends with a full stop."""
    value: float | None = None
    """The figure that decides; None if nothing was measured."""
    limit: float | None = None
    """The limit that the figure is compared with."""
    n: int = 0
    """Number of images behind the figure."""
    source: str = ""
    """The paper, or the measurement, that the check and its limit come from."""
    action: str = ""
    """What to do about it, one sentence; empty if nothing."""
    passes: tuple[int, int] = (0, 0)
    """Forward and backward passes that it took."""
    images: tuple[str, ...] = ()
    """Ids of the images that the figure counts, where later results are compared with them."""

    @property
    def is_trusted(self) -> bool:
        """Whether gates may pass with it."""
        return self.status not in UNTRUSTED_STATUSES

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the result of `to_json`."""
        forward, backward = values["passes"]
        return cls(
            **{
                **values,
                "passes": (int(forward), int(backward)),
                "images": tuple(values.get("images") or ()),
            }
        )


@dataclass(frozen=True, kw_only=True)
class DiagnosticsRecord:
    """All results of diagnostics that asked the models of a run, with their cost."""

    results: tuple[DiagnosticResult, ...] = ()
    """In the order of the models and of the registry."""
    passes: int = 0
    """Forward and backward passes of all of them, those that several share included."""
    planned_passes: int = 0
    """Largest number of passes that the attacks and certificates of the run may take."""

    @property
    def passes_share(self) -> float:
        """Passes as a share of the planned ones; 0 without a plan."""
        return self.passes / self.planned_passes if self.planned_passes else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {
            "results": [result.to_json() for result in self.results],
            "passes": self.passes,
            "planned_passes": self.planned_passes,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the record of `to_json`."""
        return cls(
            results=tuple(DiagnosticResult.from_json(entry) for entry in values["results"]),
            passes=int(values["passes"]),
            planned_passes=int(values["planned_passes"]),
        )
