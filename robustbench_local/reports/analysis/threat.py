"""The threat model of a cell, as reports group and name it."""

from __future__ import annotations

from dataclasses import dataclass

from robustbench_local.reports.formatting.text import format_budget


@dataclass(frozen=True, kw_only=True)
class Threat:
    """A threat model and its images; attacks that share it are evaluated together."""

    norm: str
    """``Linf``, ``L2``, ``L1``, ``spatial`` or ``corruption``."""
    eps: float
    """Radius in pixel units of [0, 1]; largest angle (spatial) or severity (corruption)."""
    name: str
    """Short name, e.g. ``linf-8``, ``spatial-30`` or ``fog-3``."""
    sources: tuple[int, ...] = ()
    """Only images of these classes; empty: all."""

    def __str__(self) -> str:
        kind = f"{self.kind}, " if self.norm == "corruption" else ""
        return kind + format_budget(self.norm, self.eps) + (", some classes only" if self.sources else "")

    @property
    def kind(self) -> str:
        """The name without its size: ``linf``, ``spatial`` or a corruption such as ``fog``."""
        return self.name.rpartition("-")[0]
