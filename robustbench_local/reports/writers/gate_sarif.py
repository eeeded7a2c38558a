"""Gates as SARIF 2.1.0, which code scanning services show beside the file that the gates stand in.

Each gate is a rule. A failed gate is a result of its level, a waived one is suppressed, and an inconclusive
one has the kind ``open`` (there is not enough information to decide), whose level must be ``none``. Passed
and skipped gates are no results: services show every result as an alert.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from robustbench_local.errors import escape_unprintable
from robustbench_local.reports.analysis.gate_lines import format_verdict
from robustbench_local.reports.analysis.gate_types import GateVerdict
from robustbench_local.reports.writers.gate_document import TOOL_NAME, GateDocument, compute_fingerprint

SCHEMA_ADDRESS = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
CERTIFICATE_RULE = "certificate-contradicted"
_LEVELS = {"error": "error", "warn": "warning"}
_SHOWN_STATUSES = frozenset({"fail", "warn", "inconclusive", "waived"})
_HELP = (
    "A gate compares a number of the run with a limit, by an end of its 95% interval or by the estimate. "
    "It fails if the limit is shown to be broken. It is inconclusive if the interval reaches over the limit, "
    "if results are missing or if a number is not trustworthy; its message says which. More images narrow "
    "the interval."
)


def format_gate_sarif(document: GateDocument) -> str:
    """Format a document as SARIF in ASCII, with a newline at the end."""
    return json.dumps(encode_gate_sarif(document), indent=2, allow_nan=False) + "\n"


def encode_gate_sarif(document: GateDocument) -> dict[str, Any]:
    """Encode a document as a SARIF log with one run."""
    report = document.report
    rules = _build_rules(document)
    indices = {rule["id"]: index for index, rule in enumerate(rules)}
    shown = [verdict for verdict in report.verdicts if verdict.status in _SHOWN_STATUSES]
    notes = [*([report.unread_reason] if report.unread_reason else []), *report.all_notes]
    driver = {"name": TOOL_NAME, "version": document.version, "rules": rules}
    run = {
        "tool": {"driver": driver},
        "automationDetails": {"id": f"rbl-gate/{_clean_text(report.policy or 'gates')}/"},
        "invocations": [
            {
                "executionSuccessful": not (report.unread_reason or report.violations),
                "exitCode": document.exit_code,
                "toolExecutionNotifications": [
                    {"level": "note", "message": {"text": _clean_text(note)}} for note in notes
                ],
            }
        ],
        "columnKind": "unicodeCodePoints",
        "results": [
            *(_build_violation(line, document, indices) for line in report.violations),
            *(_build_result(verdict, document, indices) for verdict in shown),
        ],
    }
    return {"$schema": SCHEMA_ADDRESS, "version": "2.1.0", "runs": [run]}


def _build_rules(document: GateDocument) -> list[dict[str, Any]]:
    """Build one rule for each gate, in the order of their first verdicts."""
    first = {verdict.gate.id: verdict for verdict in reversed(document.report.verdicts)}
    ids = list(dict.fromkeys(verdict.gate.id for verdict in document.report.verdicts))
    rules = [_build_rule(first[gate_id]) for gate_id in ids]
    if document.report.violations:
        text = "An attack succeeded where a certificate says that none can: no number of the run is reliable."
        rules.append(
            {"id": CERTIFICATE_RULE, "shortDescription": {"text": text}, "help": {"text": text}}
            | {"defaultConfiguration": {"level": "error"}}
        )
    return rules


def _build_rule(verdict: GateVerdict) -> dict[str, Any]:
    text = _clean_text(verdict.limit_text)
    return {
        "id": _clean_text(verdict.gate.id),
        "shortDescription": {"text": text},
        "fullDescription": {"text": f"Gate: {text}."},
        "help": {"text": _HELP},
        "defaultConfiguration": {"level": _LEVELS[verdict.gate.level]},
    }


def _build_result(verdict: GateVerdict, document: GateDocument, indices: dict[str, int]) -> dict[str, Any]:
    rule_id = _clean_text(verdict.gate.id)
    is_open = verdict.status == "inconclusive"
    explanation = f". {verdict.explanation}" if verdict.explanation else ""
    return {
        "ruleId": rule_id,
        "ruleIndex": indices[rule_id],
        "kind": "open" if is_open else "fail",
        "level": "none" if is_open else _LEVELS[verdict.gate.level],
        "message": {"text": _clean_text(f"{format_verdict(verdict)}{explanation}")},
        "partialFingerprints": {"rblGate/v1": compute_fingerprint(verdict)},
        **_build_location(document, document.get_line(verdict)),
        **dict(_list_suppressions(verdict)),
    }


def _list_suppressions(verdict: GateVerdict) -> Iterator[tuple[str, Any]]:
    if verdict.waiver:
        justification = _clean_text(verdict.waiver.terms)
        yield "suppressions", [{"kind": "external", "status": "accepted", "justification": justification}]


def _build_violation(line: str, document: GateDocument, indices: dict[str, int]) -> dict[str, Any]:
    return {
        "ruleId": CERTIFICATE_RULE,
        "ruleIndex": indices[CERTIFICATE_RULE],
        "level": "error",
        "message": {"text": _clean_text(line)},
        **_build_location(document, 1),
    }


def _build_location(document: GateDocument, line: int) -> dict[str, Any]:
    """Build the location in the file of the gates, if there is one."""
    if not document.source:
        return {}
    place = {"artifactLocation": {"uri": quote(document.source)}, "region": {"startLine": line}}
    return {"locations": [{"physicalLocation": place}]}


def _clean_text(text: str) -> str:
    """Escape what is not printable; ``[text](target)`` in a message would be a link (section 3.11.6)."""
    return escape_unprintable(text).replace("](", "] (")
