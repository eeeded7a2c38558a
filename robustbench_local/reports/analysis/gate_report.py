"""The report over all gates of a run: verdicts, exit code, and the lines that say so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import InvariantError
from robustbench_local.reports.analysis.gate_lines import format_passed_classes, format_verdict
from robustbench_local.reports.analysis.gate_types import GateStatus, GateVerdict
from robustbench_local.reports.analysis.gate_waivers import JudgedWaiver

FailOn = Literal["error", "warn", "inconclusive"]
"""What ends with an exit code other than 0: failed gates; failed gates that only warn; inconclusive gates."""

DEFAULT_FAIL_ON: frozenset[FailOn] = frozenset({"error", "inconclusive"})

EXIT_FAILED, EXIT_INCONCLUSIVE = 1, 4
EXIT_BLOCKED = InvariantError.exit_code
"""Exit code of a violated certificate: the numbers of the run are unreliable, whatever the gates."""
_COUNTED: tuple[tuple[GateStatus, str], ...] = (
    ("pass", "passed"),
    ("fail", "failed"),
    ("inconclusive", "inconclusive"),
    ("waived", "waived"),
    ("skipped", "skipped"),
)
INDENT = "    "


class GateLine(NamedTuple):
    """A line of text and the status that colours it."""

    text: str
    """The line."""
    status: GateStatus | None = None
    """The status of the gate that it is about; None: of no gate."""


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """All verdicts of a run."""

    verdicts: tuple[GateVerdict, ...]
    """In the order of the gates, then of the models."""
    violations: tuple[str, ...] = ()
    """Certificates contradicted by attacks (diagnostic D25), one line each; no number is reliable then."""
    unread_reason: str = ""
    """The reason why the gates are unknown; empty if they are known."""
    gate_ids: tuple[str, ...] = ()
    """Ids of the gates in the order of the file that they stand in."""
    policy: str = ""
    """Name of the policy; empty: the run's own gates."""
    waivers: tuple[JudgedWaiver, ...] = ()
    """The waivers of the policy."""
    notes: tuple[str, ...] = ()
    """Further facts that a reader has to know, such as how the models of the two runs were matched."""

    @property
    def exit_code(self) -> int:
        """The exit code with the default choice of ``compute_exit_code``."""
        return self.compute_exit_code()

    def compute_exit_code(self, fail_on: Collection[FailOn] = DEFAULT_FAIL_ON) -> int:
        """Compute the exit code: 70 if a certificate is violated, 1 if a gate fails, 4 if one is undecided.

        Unread gates are undecided. A gate of level ``warn`` counts only with ``warn``, and an undecided one
        only with ``inconclusive``; a waived or skipped one never counts.

        Args:
            fail_on: What does not end with 0; failed gates of level ``error`` never do.
        """
        if self.violations:
            return EXIT_BLOCKED
        counted = [one for one in self.verdicts if one.gate.level == "error" or "warn" in fail_on]
        statuses = {verdict.status for verdict in counted}
        if statuses & {"fail", "warn"}:
            return EXIT_FAILED
        is_undecided = bool(self.unread_reason) or "inconclusive" in statuses
        return EXIT_INCONCLUSIVE if is_undecided and "inconclusive" in fail_on else 0

    @property
    def summary_lines(self) -> list[str]:
        """The texts of ``lines``."""
        return [line.text for line in self.lines]

    @property
    def lines(self) -> list[GateLine]:
        """The lines of the report: violations, each gate with its explanation, notes, and the counts."""
        lines = [GateLine(f"blocked: certificate violated: {line}", "fail") for line in self.violations]
        for group in _group_passed_classes(self.verdicts):
            if len(group) > 1:
                lines.append(GateLine(format_passed_classes(group), "pass"))
                continue
            (verdict,) = group
            lines.append(GateLine(format_verdict(verdict), verdict.status))
            if verdict.explanation:
                lines.append(GateLine(f"{INDENT}{verdict.explanation}"))
        lines += [GateLine(f"note: {note}") for note in self.all_notes]
        if self.unread_reason:
            return [*lines, GateLine(self.unread_reason)]
        if not self.verdicts:
            nothing = "the policy judges nothing" if self.policy else "the grid file has no gates"
            return lines or [GateLine(nothing)]
        return [*lines, GateLine(self.counts_text)]

    @property
    def all_notes(self) -> list[str]:
        """The notes, then waivers that expired, are not needed or match nothing."""
        return [*self.notes, *filter(None, (judged.note for judged in self.waivers))]

    @property
    def counts(self) -> dict[GateStatus, int]:
        """Number of gates of each status that occurs."""
        return dict(Counter(verdict.status for verdict in self.verdicts))

    @property
    def counts_text(self) -> str:
        """How many gates came to what, such as ``2 passed, 1 failed, 1 inconclusive``."""
        parts = [f"{self.counts[status]:,} {word}" for status, word in _COUNTED if status in self.counts]
        if "warn" in self.counts:
            parts.append(format_count(self.counts["warn"], "warning"))
        return ", ".join(parts)


def _group_passed_classes(verdicts: Sequence[GateVerdict]) -> list[list[GateVerdict]]:
    """Group the passed classes of one gate, model and threat model, which share a line; others stand alone.

    A group stands where its first class does.
    """
    groups: dict[object, list[GateVerdict]] = {}
    for position, verdict in enumerate(verdicts):
        gate = verdict.gate
        is_passed_class = verdict.status == "pass" and gate.true_class is not None
        key: object = (gate.id, gate.threat, gate.attack, verdict.subject) if is_passed_class else position
        groups.setdefault(key, []).append(verdict)
    return list(groups.values())
