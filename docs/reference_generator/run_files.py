"""The pages on what a run leaves behind: results.json, the CSV files and the columns of the store."""

from __future__ import annotations

from pathlib import Path

import yaml

from reference_generator.docstrings import read_field_docs
from reference_generator.tables import render_code, render_table
from robustbench_local.cli.json_events import CELL_KEYS, COUNT_KEYS, EVENTS, TIME_KEYS
from robustbench_local.reports.writers.csv_files import (
    CLASS_COLUMNS,
    CONFUSION_COLUMNS,
    VIEW_CSV_COLUMNS,
)
from robustbench_local.reports.writers.outcome_table import OUTCOME_COLUMNS
from robustbench_local.store.records import OutcomeRecord, ViewPredictionsRecord, ViewRecord

_RESULTS_HEAD = """# results.json

One file with everything that the report shows. Values are never NaN: an unknown one is null, with a `reason`.
A *share* is `{"value", "low", "high", "n"}` in [0, 1], with the exact 95% interval. Where images come in
groups, the interval is over groups, and `groups` is their number.

"""
_OUTCOMES_HEAD = """# outcomes.csv, classes.csv, confusions.csv and sticker_views.csv

`outcomes.csv` has one row for each cell and image; `run.outcomes` in Python has the same columns. Distances
are in pixel units of [0, 1].

With the extra `arrow`, `outcomes.parquet` has the same rows and columns with types: text, 64-bit integers,
64-bit floats, and true or false. What is empty in the CSV file is null there, and texts that begin like a
formula have no `'` before them. A row group holds up to 65,536 images of one cell.

"""
_SIGHTINGS_HEAD = """
## sticker_views.csv

Written only for stickers and patches: one row for each sign, condition and view.

"""
_CLASSES_HEAD = """
## classes.csv

Written where images of several classes were attacked: one row for each model, threat model, attack and class.

"""
_CONFUSIONS_HEAD = """
## confusions.csv

The confusion matrix under the attack of lowest robust accuracy, without its zeros.

"""
_EVENTS_HEAD = """# JSON lines of rbl run --json

Standard output has one JSON object a line and nothing else; what models print goes to standard error. `event`
says what an object is. They come in this order, those about cells as often as something happens: after each
batch, and every 15 seconds to 5 minutes in between. Seconds and shares are numbers, an unknown one is null.

"""
CLASS_CSV_COLUMNS = {
    "threat": "Short name of the threat model.",
    "attack": "Identifier of the attack, or `worst case` for all of them together.",
    "class": "True class index.",
    "class_name": "Name of the true class.",
    "n": "Number of images of the true class.",
    "clean_accuracy": "Share of them that are correctly classified without an attack.",
    "clean_accuracy_low": "Lower end of its 95% interval.",
    "clean_accuracy_high": "Upper end.",
    "robust_accuracy": "Share of them that remain correctly classified under the attack.",
    "robust_accuracy_low": "Lower end of its 95% interval.",
    "robust_accuracy_high": "Upper end.",
    "groups": "Number of groups of images that the interval is over; empty if images are independent.",
    "predicted_class": "Predicted class index; empty if the output was not finite.",
    "predicted_class_name": "Its name.",
    "count": "Number of images of the true class that are predicted as this class.",
}
"""Columns of the CSV files about classes."""
CSV_COLUMNS = {
    "model": "Id of the model.",
    "defense": "Name of the defense, or `none`.",
    "attack": "Identifier of the attack or certificate, with every override.",
    "attack_label": "Short label of the attack or certificate, as tables show it.",
    "image": "Id of the sign's image in its data set.",
    "label": "True class index.",
    "label_name": "Name of the true class.",
    "clean_prediction_name": "Name of the class predicted without an attack.",
    "adversarial_prediction_name": "Name of the class predicted for the verified candidate.",
    "counted": "Whether the sign counts: it is not void.",
    "number": "Number of the view, from 0.",
    "prediction": "Class index that was predicted; empty if the output was not finite.",
    "prediction_name": "Its name.",
    "confidence": "Its softmax probability, to four digits.",
}
"""Columns that only the CSV files have."""


def write_results_page() -> str:
    """The keys of results.json."""
    rows = [(render_code(key), text) for key, text in read_result_keys().items()]
    return _RESULTS_HEAD + render_table(("key", "meaning"), rows)


def write_outcomes_page() -> str:
    """The columns of the CSV files with one row for each image or view."""
    outcomes = {**CSV_COLUMNS, **read_field_docs(OutcomeRecord)}
    sightings = {**read_field_docs(ViewRecord), **read_field_docs(ViewPredictionsRecord), **CSV_COLUMNS}
    return (
        _OUTCOMES_HEAD
        + _render_columns(OUTCOME_COLUMNS, outcomes)
        + _CLASSES_HEAD
        + _render_columns(CLASS_COLUMNS, {**CSV_COLUMNS, **CLASS_CSV_COLUMNS})
        + _CONFUSIONS_HEAD
        + _render_columns(CONFUSION_COLUMNS, {**CSV_COLUMNS, **CLASS_CSV_COLUMNS})
        + _SIGHTINGS_HEAD
        + _render_columns(VIEW_CSV_COLUMNS, sightings)
    )


def write_json_lines_page() -> str:
    """The objects of ``rbl run --json``."""
    rows = [(render_code(key), text) for key, text in {**CELL_KEYS, **COUNT_KEYS, **TIME_KEYS}.items()]
    shared = {**CELL_KEYS, **COUNT_KEYS, **TIME_KEYS}
    parts = [_EVENTS_HEAD, "## Keys about cells, counts and time\n\n", render_table(("key", "meaning"), rows)]
    for event, keys in EVENTS.items():
        own = [
            (render_code(key), text) for key, text in keys.items() if shared.get(key) != text and key != "*"
        ]
        own += [("", keys["*"])] if "*" in keys else []
        others = [render_code(key) for key, text in keys.items() if shared.get(key) == text]
        also = f"\nKeys described above: {', '.join(others)}.\n" if others else ""
        parts.append(f"\n## {event}\n\n{render_table(('key', 'meaning'), own) if own else ''}{also}")
    return "".join(parts)


def read_result_keys() -> dict[str, str]:
    """Every documented key of results.json, as a path, and what it means."""
    text = (Path(__file__).parent / "results_keys.yaml").read_text(encoding="utf-8")
    keys: dict[str, str] = yaml.safe_load(text)
    return keys


def _render_columns(columns: tuple[str, ...], docs: dict[str, str]) -> str:
    return render_table(("column", "meaning"), [(render_code(name), docs[name]) for name in columns])
