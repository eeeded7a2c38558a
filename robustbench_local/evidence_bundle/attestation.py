"""An in-toto statement about a bundle: its files with their hashes, and the verdicts of the run's gates.

Source: in-toto Statement v1 and the test-result predicate v0.1, github.com/in-toto/attestation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from robustbench_local.evidence_bundle.bundle_files import GRID_NAME

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://in-toto.io/attestation/test-result/v0.1"


def build_statement(digests: Mapping[str, str], results: Mapping[str, Any]) -> dict[str, Any]:
    """Build the statement: its subjects are the files, its predicate is the result of the run's gates.

    Args:
        digests: SHA-256 of each file by its name.
        results: The content of results.json.
    """
    verdicts = results["gates"]["verdicts"]
    by_ruling = {
        ruling: [_name_gate(verdict) for verdict in verdicts if verdict["verdict"] == ruling]
        for ruling in ("pass", "fail", "inconclusive")
    }
    failed = results["gates"]["violations"] or by_ruling["fail"]
    outcome = "FAILED" if failed else "WARNED" if by_ruling["inconclusive"] or not verdicts else "PASSED"
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(digests.items())],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "result": outcome,
            "configuration": [{"name": GRID_NAME, "digest": {"sha256": digests[GRID_NAME]}}],
            "passedTests": by_ruling["pass"],
            "warnedTests": by_ruling["inconclusive"],
            "failedTests": [*by_ruling["fail"], *results["gates"]["violations"]],
        },
    }


def format_statement(statement: Mapping[str, Any]) -> bytes:
    """Format a statement as the bytes that are stored and signed."""
    return (json.dumps(statement, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _name_gate(verdict: Mapping[str, Any]) -> str:
    subject = verdict["evaluated_model"]
    return f"{verdict['id']} on {subject['label']}" if subject else str(verdict["id"])
