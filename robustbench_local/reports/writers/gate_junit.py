"""Gates as JUnit XML, which CI services show as tests.

A failed gate is a ``failure``. An inconclusive one is an ``error``: in JUnit's terms the test did not come to
a result. Waived and skipped gates, and failures that only warn, are ``skipped`` with a message, so that they
are neither green nor red. A contradicted certificate is an ``error`` of its own.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from robustbench_local.errors import escape_unprintable
from robustbench_local.reports.analysis.gate_lines import (
    format_limit,
    format_metric,
    format_subject,
    format_verdict,
)
from robustbench_local.reports.analysis.gate_types import GateStatus, GateVerdict
from robustbench_local.reports.writers.gate_document import GateDocument

_TAG_BY_STATUS: dict[GateStatus, str] = {
    "fail": "failure",
    "inconclusive": "error",
    "warn": "skipped",
    "waived": "skipped",
    "skipped": "skipped",
}


def format_gate_junit(document: GateDocument) -> str:
    """Format a document as JUnit XML in ASCII."""
    report = document.report
    name = _clean_text(report.policy or "gates")
    suite = ET.Element("testsuite", name=name)
    for line in report.violations:
        case = ET.SubElement(suite, "testcase", classname=name, name="certificates hold", time="0")
        ET.SubElement(case, "error", message=_clean_text(line), type="contradiction")
    for verdict in report.verdicts:
        _add_case(suite, verdict, name)
    if report.unread_reason:
        case = ET.SubElement(suite, "testcase", classname=name, name="gates are known", time="0")
        ET.SubElement(case, "error", message=_clean_text(report.unread_reason), type="incomplete")
    if notes := report.all_notes:
        ET.SubElement(suite, "system-out").text = "\n".join(map(_clean_text, notes))
    totals = {
        "tests": len(suite.findall("testcase")),
        "failures": len(suite.findall("testcase/failure")),
        "errors": len(suite.findall("testcase/error")),
        "skipped": len(suite.findall("testcase/skipped")),
    }
    root = ET.Element("testsuites", name="rbl gate")
    for element in (root, suite):
        for key, number in totals.items():
            element.set(key, str(number))
        element.set("time", "0")
    root.append(suite)
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="us-ascii", xml_declaration=True)
    return text.decode("ascii") + "\n"


def _add_case(suite: ET.Element, verdict: GateVerdict, policy: str) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        classname=f"{policy}.{_clean_text(format_subject(verdict))}",
        name=_clean_text(f"{format_metric(verdict)} {format_limit(verdict.gate)}"),
        time="0",
    )
    line = _clean_text(format_verdict(verdict))
    if verdict.status == "pass":
        ET.SubElement(case, "system-out").text = line
        return
    tag = _TAG_BY_STATUS[verdict.status]
    result = ET.SubElement(case, tag, message=line, type=verdict.status)
    result.text = _clean_text(verdict.explanation) or line


def _clean_text(text: str) -> str:
    """Escape what XML 1.0 cannot hold, or what steers a terminal that shows it."""
    shown = escape_unprintable(text)
    return "".join(f"\\u{ord(sign):04x}" if sign in "\ufffe\uffff" else sign for sign in shown)
