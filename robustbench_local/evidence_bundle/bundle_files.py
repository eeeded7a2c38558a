"""The files of a bundle: their names, and the version of their form."""

from __future__ import annotations

BUNDLE_VERSION = 1
"""Version of the form of a bundle; ``rbl verify`` refuses others."""
RESULTS_NAME = "results.json"
SCHEMA_NAME = "results.schema.json"
DESCRIPTION_NAME = "bundle.json"
"""What the bundle holds, how examples were chosen, and what was left out."""
GRID_NAME = "run.yaml"
RECORDS_FOLDER = "records"
"""Every outcome of the run, as JSON lines."""
RUN_RECORD_NAME = f"{RECORDS_FOLDER}/run.json"
"""Cells, metadata and events of the run."""
REPORT_FOLDER = "report"
EXAMPLES_FOLDER = "examples"
"""Adversarial examples, one file a cell, and the clean images that they were made from."""
CLEAN_FOLDER = f"{EXAMPLES_FOLDER}/clean"
BOM_NAME = "ml-bom.cdx.json"
MAP_NAME, MAP_PAGE_NAME = "evidence-map.json", "evidence-map.md"
CARD_NAME = "model-card.md"
STATEMENT_NAME = "statement.json"
"""An in-toto statement whose subjects are all other files with their SHA-256."""
ENVELOPE_NAME = "statement.dsse.json"
"""The same statement in a signed envelope; only in a signed bundle."""
UNLISTED_NAMES = frozenset({STATEMENT_NAME, ENVELOPE_NAME})
"""Files that the statement cannot list."""


def format_cell_name(position: int, key: str) -> str:
    """Return the name, without its ending, of the files of a cell."""
    return f"{position:05d}-{key[:16]}"
