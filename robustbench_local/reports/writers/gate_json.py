"""Gates as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from robustbench_local.paired_difference import PairedDifference
from robustbench_local.reports.analysis.gate_lines import format_verdict
from robustbench_local.reports.analysis.gate_types import GateStatus, GateVerdict
from robustbench_local.reports.analysis.gate_waivers import JudgedWaiver, Waiver
from robustbench_local.reports.writers.gate_document import GateDocument, compute_fingerprint

SCHEMA_VERSION = 1
_STATUSES: tuple[GateStatus, ...] = ("pass", "fail", "warn", "inconclusive", "waived", "skipped")


def format_gate_json(document: GateDocument) -> str:
    """Format a document as JSON in ASCII, with a newline at the end."""
    return json.dumps(encode_gate_document(document), indent=2, allow_nan=False) + "\n"


def encode_gate_document(document: GateDocument) -> dict[str, Any]:
    """Encode a document as JSON values; ``docs/reference_generator/gate_keys.yaml`` describes each key."""
    report = document.report
    return {
        "schema": SCHEMA_VERSION,
        "version": document.version,
        "run": document.run,
        "baseline": document.baseline,
        "policy": report.policy or None,
        "source": document.source or None,
        "judged_on": document.judged_on.isoformat(),
        "exit_code": document.exit_code,
        "summary": report.counts_text,
        "counts": {status: report.counts.get(status, 0) for status in _STATUSES},
        "gates": [encode_verdict(verdict, document) for verdict in report.verdicts],
        "waivers": [_encode_judged_waiver(judged) for judged in report.waivers],
        "violations": list(report.violations),
        "notes": report.all_notes,
        "problem": report.unread_reason or None,
    }


def encode_verdict(verdict: GateVerdict, document: GateDocument) -> dict[str, Any]:
    """Encode the verdict on one gate and model as JSON values: an entry of ``gates`` in the document."""
    gate, subject = verdict.gate, verdict.subject
    return {
        "id": gate.id,
        "status": verdict.status,
        "level": gate.level,
        "model": subject.model if subject else gate.model,
        "defense": subject.defense if subject else gate.defense,
        "metric": gate.metric,
        "threat": gate.threat,
        "attack": gate.attack,
        "true_class": gate.true_class,
        "tries": gate.tries,
        "load": gate.load,
        "limit": {"min": gate.min, "max": gate.max, "max_drop": gate.max_drop, "on": gate.bound},
        "trust": gate.trust,
        "estimate": {
            key: None if value == math.inf else value
            for key, value in verdict.estimate.to_json("nothing was measured").items()
        }
        | {"level": verdict.estimate.level},
        "drop": _encode_drop(verdict.drop),
        "line": format_verdict(verdict),
        "explanation": verdict.explanation or None,
        "waiver": _encode_waiver(verdict.waiver) if verdict.waiver else None,
        "source_line": document.lines.get(gate.id),
        "fingerprint": compute_fingerprint(verdict),
    }


def _encode_drop(drop: PairedDifference | None) -> dict[str, Any] | None:
    if drop is None or not drop.is_known:
        return None
    values = asdict(drop)
    return {**values, "lost": values.pop("only_first"), "won": values.pop("only_second")}


def _encode_waiver(waiver: Waiver) -> dict[str, Any]:
    return {**asdict(waiver), "expiry": waiver.expiry.isoformat()}


def _encode_judged_waiver(judged: JudgedWaiver) -> dict[str, Any]:
    return {**_encode_waiver(judged.waiver), "state": judged.state, "note": judged.note or None}
