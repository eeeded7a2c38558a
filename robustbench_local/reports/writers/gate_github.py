"""Gates as workflow commands of GitHub Actions: an annotation for each gate that does not pass."""

from __future__ import annotations

from robustbench_local.errors import escape_unprintable
from robustbench_local.reports.analysis.gate_lines import format_verdict
from robustbench_local.reports.analysis.gate_types import GateStatus, GateVerdict
from robustbench_local.reports.writers.gate_document import GateDocument

_COMMANDS: dict[GateStatus, str] = {
    "fail": "error",
    "warn": "warning",
    "inconclusive": "warning",
    "waived": "notice",
}


def format_gate_github(document: GateDocument) -> str:
    """Format a document as annotations, then the counts; no text in it can begin another command.

    Source: "Workflow commands for GitHub Actions", and the escapes of its toolkit: ``%``, carriage return and
    newline in messages; these, ``:`` and ``,`` in properties.
    """
    report = document.report
    lines = [_format_command("error", "certificate contradicted", line) for line in report.violations]
    lines += [
        _format_command(_COMMANDS[verdict.status], verdict.gate.id, _join_text(verdict), document, verdict)
        for verdict in report.verdicts
        if verdict.status in _COMMANDS
    ]
    lines += [_format_command("notice", "gates", note) for note in report.all_notes]
    if report.unread_reason:
        lines.append(_format_command("warning", "gates", report.unread_reason))
    return "\n".join([*lines, report.counts_text or "no gates"]) + "\n"


def _format_command(
    command: str,
    title: str,
    message: str,
    document: GateDocument | None = None,
    verdict: GateVerdict | None = None,
) -> str:
    properties = {"title": title}
    if document is not None and verdict is not None and document.source:
        properties = {"file": document.source, "line": str(document.get_line(verdict)), **properties}
    shown = ",".join(f"{name}={_escape_property(value)}" for name, value in properties.items())
    return f"::{command} {shown}::{_escape_message(message)}"


def _join_text(verdict: GateVerdict) -> str:
    return ". ".join(filter(None, [format_verdict(verdict), verdict.explanation]))


def _escape_message(text: str) -> str:
    """Escape a message; ``##[`` anywhere in a line would begin a command of the older form."""
    printable = escape_unprintable(text).replace("##[", "# #[")
    return printable.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_property(text: str) -> str:
    return _escape_message(text).replace(":", "%3A").replace(",", "%2C")
