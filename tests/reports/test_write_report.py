"""The files of a report: all there, strict, safe in a spreadsheet, and the same bytes each time."""

from __future__ import annotations

import csv
import errno
import io
import json
import math
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from sample_run import HOSTILE_CLASS_NAMES

from robustbench_local.errors import ConfigError, StorageError
from robustbench_local.reports import write_report
from robustbench_local.reports.writers.figures import DrawnFigures
from robustbench_local.reports.writers.outcome_table import OUTCOME_COLUMNS, load_outcomes_frame
from robustbench_local.reports.writers.report_markdown import escape_markdown
from robustbench_local.reports.writers.results_json import format_json
from robustbench_local.store import OutcomeRecord, RunStore

FILES = ("report.html", "results.json", "results.csv", "outcomes.csv", "report.md")


def strict(text: str):
    def refuse(name: str):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def draw_nothing(_content):
    return DrawnFigures({}, ())


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_everything_lies_beside_the_page(sample, hostile):
    assert sample.page_path == sample.run_dir / "report.html"
    for written in (sample, hostile):
        assert all(
            (written.page_path.parent / name).stat().st_size > 0
            for name in (written.page_path.name, *FILES[1:])
        )
    assert not (hostile.run_dir / "report.html").exists()


def test_figures_exist_and_open(sample):
    figures = sorted((sample.page_path.parent / "figures").iterdir())
    names = ["examples.png", "over-radius-linf.png", "robust-accuracy.png", "targets-1.png"]
    names.append("trade-off.png")
    assert [figure.name for figure in figures] == names
    for figure in figures:
        with Image.open(figure) as picture:
            picture.verify()
            assert picture.width > 500
            assert "Software" not in picture.info


@pytest.mark.slow
def test_rendering_twice_gives_the_same_bytes(sample, tmp_path):
    again = write_report(sample.run_dir, tmp_path / "report.html")
    first = {path.relative_to(sample.page_path.parent): path for path in _report_files(sample.page_path)}
    second = {path.relative_to(again.parent): path for path in _report_files(again)}
    assert first.keys() == second.keys()
    for name, path in first.items():
        assert path.read_bytes() == second[name].read_bytes(), name


def _report_files(page: Path) -> list[Path]:
    return [page.parent / name for name in FILES] + sorted((page.parent / "figures").iterdir())


def test_results_json_has_the_documented_form(sample, content):
    results = strict(sample.read_text("results.json"))
    assert results["schema"] == 1
    cell = results["cells"][0]
    documented = {
        "model", "defense", "attack", "norm", "eps", "goal", "status", "n", "clean_accuracy",
        "robust_accuracy", "attack_success", "forward_passes", "backward_passes", "seconds",
    }  # fmt: skip
    assert documented <= cell.keys()
    assert {"value", "low", "high"} <= cell["robust_accuracy"].keys()
    assert cell["robust_accuracy"]["value"] == content.evidence.cells[0].robust_accuracy.value
    worst = next(
        one for one in results["worst_case"] if one["model"] == "signs-pgd-at" and one["threat"] == "linf-8"
    )
    assert len(worst["attacks"]) == 3
    assert results["environment"]["torch"] == "2.14.1"
    assert "variables" not in results["environment"]


def test_what_is_unknown_is_null_with_a_reason(sample):
    failed = next(
        cell for cell in strict(sample.read_text("results.json"))["cells"] if cell["status"] == "error"
    )
    share = failed["robust_accuracy"]
    assert (share["value"], share["low"], share["high"]) == (None, None, None)
    assert share["reason"].startswith("error: RuntimeError")


def test_a_nan_cannot_get_into_the_json():
    with pytest.raises(ValueError, match="not JSON compliant"):
        format_json({"value": math.nan})


def test_results_csv_has_a_row_a_cell(sample, content):
    rows = rows_of(sample.read_text("results.csv"))
    assert len(rows) == len(content.evidence.cells)
    failed = next(row for row in rows if row["status"] == "error")
    assert failed["robust_accuracy"] == ""
    assert "RuntimeError" in failed["error"]
    done = next(row for row in rows if row["status"] == "done")
    counted = int(done["clean_correct"]) - int(done["broken"])
    assert float(done["robust_accuracy"]) * int(done["n"]) == pytest.approx(counted)


def test_outcomes_csv_has_a_row_an_image_with_the_stores_columns(sample, content):
    rows = rows_of(sample.read_text("outcomes.csv"))
    assert len(rows) == sum(cell.tally.n for cell in content.evidence.cells)
    assert set(OutcomeRecord.__dataclass_fields__) < set(rows[0]) == set(OUTCOME_COLUMNS)
    assert rows[0]["label_name"] == "Speed limit 20"
    unread = [row for row in rows if row["status"] == "non-finite"]
    assert {(row["linf"], row["margin"], row["adversarial_prediction"]) for row in unread} == {("", "", "")}


def test_the_frame_holds_what_the_csv_holds(sample):
    with RunStore.open_readonly(sample.run_dir) as store:
        frame = load_outcomes_frame(store)
    read = pd.read_csv(sample.page_path.parent / "outcomes.csv")
    assert list(frame.columns) == list(read.columns)
    assert len(frame) == len(read)
    assert (frame["broken"] == read["broken"]).all()
    assert frame["image"].tolist() == read["image"].tolist()


def test_spreadsheets_run_nothing(hostile):
    for name in ("results.csv", "outcomes.csv"):
        cells = [cell for row in csv.reader(io.StringIO(hostile.read_text(name))) for cell in row]
        texts = [cell for cell in cells if not _is_number(cell)]
        assert not [text for text in texts if text.startswith(("=", "+", "-", "@", "\t", "\r"))]
        assert "'=cmd()|`$a$`" in texts
    names = {row["label_name"] for row in rows_of(hostile.read_text("outcomes.csv"))}
    assert {"'=1+1", "'@sum", "'-2", "'+3", "'\tTab", "限速五十", "تحديد السرعة", "🛑 stop"} <= names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_markdown_shows_names_as_they_are(hostile):
    text = hostile.read_text("report.md")
    assert "<script>" not in text
    assert "<b>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "=cmd()\\|\\`\\$a\\$\\`" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    widths = [line.replace("\\|", "").count("|") for line in tables]
    rules = [place for place, line in enumerate(tables) if line.startswith("| ---")]
    assert all(widths[place] == widths[place - 1] == widths[place + 1] for place in rules)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a|b", r"a\|b"),
        ("*x* _y_ `z`", r"\*x\* \_y\_ \`z\`"),
        ("[a](javascript:alert(1))", r"\[a\](javascript:alert(1))"),
        ("# no heading", r"\# no heading"),
        ("- no item", r"\- no item"),
        ("1. no item", r"1\. no item"),
        ("two\nlines\t| here", r"two lines \| here"),
        ("<img>&amp;", "&lt;img&gt;&amp;amp;"),
        ("~~gone~~ $x$ \\", r"\~\~gone\~\~ \$x\$ \\"),
    ],
)
def test_markdown_escapes(text, escaped):
    assert escape_markdown(text) == escaped


def test_names_in_every_script_reach_the_files(hostile):
    for name in HOSTILE_CLASS_NAMES[:3]:
        assert name in hostile.html
        assert name in hostile.read_text("outcomes.csv")
        assert name in strict(hostile.read_text("results.json"))["data"]["class_names"]


def test_a_folder_without_a_run_is_told(tmp_path):
    with pytest.raises(ConfigError):
        write_report(tmp_path)


def test_a_place_that_cannot_be_written_is_told(sample, tmp_path, monkeypatch):
    monkeypatch.setattr("robustbench_local.reports.writers.figures.draw_figures", draw_nothing)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError):
        write_report(sample.run_dir, tmp_path / "file" / "report.html")


def test_a_full_disk_keeps_the_old_report(sample, tmp_path, monkeypatch):
    monkeypatch.setattr("robustbench_local.reports.writers.figures.draw_figures", draw_nothing)
    page = write_report(sample.run_dir, tmp_path / "report.html")
    before = page.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("robustbench_local.store.atomic_files.os.fsync", full)
    with pytest.raises(StorageError):
        write_report(sample.run_dir, page)
    assert page.read_bytes() == before
