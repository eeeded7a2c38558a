"""The interface of a diagnostic: a name, a cost, and a reading of a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from robustbench_local.counted_nouns import format_count
from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.store.diagnostic_records import (
    TOO_SMALL_REASON,
    DiagnosticResult,
    DiagnosticStatus,
)

__all__ = [
    "TOO_SMALL_REASON",
    "Diagnostic",
    "Reading",
    "build_unread",
    "capitalize_first",
    "format_figure",
    "format_images",
]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a diagnostic found; see `DiagnosticResult` for the fields."""

    status: DiagnosticStatus
    sentence: str
    value: float | None = None
    limit: float | None = None
    n: int = 0
    action: str = ""
    images: tuple[str, ...] = ()


class Diagnostic(ABC):
    """A check of a model. Each subclass has a module of its own, with its limit as a named constant."""

    id: ClassVar[str]
    """``D7`` for example."""
    name: ClassVar[str]
    """What is checked, in a few words."""
    source: ClassVar[str]
    """The paper, or the measurement, that the check and its limit come from."""
    is_per_norm: ClassVar[bool] = False
    """Whether it runs once for each norm of the run's threat models."""

    @abstractmethod
    def check_model(self, model: DiagnosedModel) -> Reading:
        """Read the model; passes count against ``model.budget``."""

    def build_result(
        self, model: DiagnosedModel, reading: Reading, passes: tuple[int, int] = (0, 0)
    ) -> DiagnosticResult:
        """Return the stored form of a reading."""
        return DiagnosticResult(
            id=self.id,
            name=self.name,
            model=model.id,
            defense=model.defense,
            threat=model.threat.name if model.threat is not None and self.is_per_norm else None,
            status=reading.status,
            sentence=reading.sentence,
            value=reading.value,
            limit=reading.limit,
            n=reading.n,
            source=self.source,
            action=reading.action,
            passes=passes,
            images=reading.images,
        )


def build_unread(reason: str) -> Reading:
    """Return the reading of a diagnostic that was not run; ``reason`` completes "not checked: "."""
    return Reading(status="not run", sentence=f"Not checked: {reason}.")


def format_images(count: int, n: int) -> str:
    """Format ``3 of 16 images``, and ``all 16 images`` where none is missing."""
    images = format_count(n, "image")
    return f"all {images}" if count == n > 1 else f"{count:,} of {images}"


def capitalize_first(text: str) -> str:
    """Return a phrase with a capital letter at its start."""
    return f"{text[:1].upper()}{text[1:]}"


def format_figure(number: float) -> str:
    """Format a number with up to three digits that mean something, also where it is huge."""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"
