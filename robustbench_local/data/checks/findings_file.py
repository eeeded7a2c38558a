"""Findings as files: a table that a reader edits and ``exclude`` reads, and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from robustbench_local.data.checks.check_dataset import DataCheck
from robustbench_local.data.checks.data_finding import SEVERITIES, DataFinding
from robustbench_local.errors import StorageError

TABLE_NAME, JSON_NAME = "findings.csv", "findings.json"
_COLUMN_NAMES = {"label": "class", "other_label": "other_class", "likelier_label": "likelier_class"}
_FIRST_COLUMNS = ("exclude", "severity", "check", "split", "image", "class")


def write_findings(check: DataCheck, folder: Path, *, source: str) -> Path:
    """Write ``findings.csv`` and ``findings.json``, and return the path of the table.

    Args:
        check: The result.
        folder: The folder; it is made if there is none.
        source: The data, as the user named them.

    Raises:
        StorageError: If writing fails.
    """
    path = folder / TABLE_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(format_table(check), encoding="utf-8", newline="")
        content = json.dumps(describe_check(check, source=source), indent=1) + "\n"
        (folder / JSON_NAME).write_text(content, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write the findings: {error.strerror}", where=str(folder)) from None
    return path


def format_table(check: DataCheck) -> str:
    """Return the findings as CSV, a row each; ``exclude`` is yes where leaving the image out mends it.

    An image is marked in one row alone, so that changing yes to no keeps it.
    """
    rows = list(_list_rows(check))
    columns = list(dict.fromkeys((*_FIRST_COLUMNS, *_name_columns())))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def describe_check(check: DataCheck, *, source: str) -> dict[str, Any]:
    """Return a check as plain values for JSON."""
    accuracy = check.label_accuracy
    return {
        "data": source,
        "images": dict(check.images),
        "classes": check.classes,
        "label_accuracy": None
        if accuracy is None
        else {"value": accuracy.value, "low": accuracy.low, "high": accuracy.high, "n": accuracy.n},
        "counts": {severity: check.count_checks(severity) for severity in SEVERITIES},
        "passed": not check.count_checks("error"),
        "findings": [
            {key: value for key, value in row.items() if value not in ("", None)} for row in _list_rows(check)
        ],
    }


def _name_columns() -> list[str]:
    names = [field.name for field in fields(DataFinding) if field.name != "is_exclusion_suggested"]
    return [_COLUMN_NAMES.get(name, name) for name in names]


def _list_rows(check: DataCheck) -> Iterator[dict[str, Any]]:
    marked: set[tuple[str, str]] = set()
    for finding in check.findings:
        key = (finding.split, finding.image)
        is_marked = finding.is_exclusion_suggested and key not in marked
        if is_marked:
            marked.add(key)
        values = [getattr(finding, field.name) for field in fields(finding)][:-1]
        rounded = [round(value, 4) if isinstance(value, float) else value for value in values]
        yield {
            "exclude": "yes" if is_marked else "no",
            "severity": finding.severity,
            **dict(zip(_name_columns(), rounded, strict=True)),
        }
