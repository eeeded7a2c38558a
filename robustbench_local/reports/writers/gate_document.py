"""The judgement of a run by its gates, with what the formats for machines say about where it comes from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

from robustbench_local.reports.analysis.gate_report import GateReport
from robustbench_local.reports.analysis.gate_types import GateVerdict

TOOL_NAME = "robustbench-local"
FINGERPRINT_CHARACTERS = 32


@dataclass(frozen=True, kw_only=True)
class GateDocument:
    """A report on gates and its circumstances."""

    report: GateReport
    """The verdicts."""
    run: str
    """Name of the run directory."""
    version: str
    """Version of this package."""
    judged_on: date
    """The day for which waivers count, in UTC."""
    exit_code: int
    """The exit code of the command."""
    baseline: str | None = None
    """Name of the baseline's run directory, if any."""
    source: str = ""
    """Path of the file that the gates stand in, with forward slashes; empty: none that a reader has."""
    lines: Mapping[str, int] = field(default_factory=dict)
    """Id of a gate -> its line in that file, from 1."""

    def get_line(self, verdict: GateVerdict) -> int:
        """Return the line of a verdict's gate; the first one if it is unknown."""
        return self.lines.get(verdict.gate.id, 1)


def compute_fingerprint(verdict: GateVerdict) -> str:
    """Compute what identifies a verdict from run to run: its gate, model, threat model and class, in hex."""
    subject, gate = verdict.subject, verdict.gate
    parts = [gate.id, gate.threat, gate.attack, gate.true_class, *([gate.load] if gate.load else [])]
    parts += [subject.model, subject.defense] if subject else [None, None]
    text = "\0".join("" if part is None else str(part) for part in parts)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:FINGERPRINT_CHARACTERS]
