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
TOO_SMALL_REASON = "the run is too small to spend passes on it"
"""Why a question was not asked, for lack of budget."""
UNENDED_REASON = "the questions did not come to an end"
"""Why a question was not asked where the model hung, or ended its process."""
RAISED_REASON = "the model raised"
"""Why a question was not answered where the model raised an exception."""
_UNASKED_REASONS = (TOO_SMALL_REASON, UNENDED_REASON, RAISED_REASON)


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

    @property
    def is_unasked(self) -> bool:
        """Whether it applies to the model and was still not run, or came to no answer."""
        return self.status == "not run" and any(reason in self.sentence for reason in _UNASKED_REASONS)

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
