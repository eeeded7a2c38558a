"""A number that diagnostics find not trustworthy says so wherever it stands."""

from __future__ import annotations

import csv
import io
import re

import pytest
from rich.console import Console
from sample_run import SampleRun, build_run

from robustbench_local.cli.result_tables import build_results_table
from robustbench_local.reports.analysis.heatmap import build_heatmap
from robustbench_local.reports.page import render
from robustbench_local.reports.sections.report_data import read_report_data
from robustbench_local.reports.summary.headline import (
    describe_answer,
    describe_comparisons,
    describe_eight_bit_answer,
)
from robustbench_local.reports.writers.csv_files import format_results_csv
from robustbench_local.reports.writers.figures import draw_figures
from robustbench_local.reports.writers.report_markdown import render_markdown
from robustbench_local.reports.writers.results_json import load_results
from robustbench_local.store import RunStore
from robustbench_local.store.diagnostic_records import DiagnosticResult, DiagnosticsRecord

BROKEN, SOUND, MARK = "signs-plain", "signs-pgd-at", "not trustworthy (D7)"
EXPLAINED = "not trustworthy because the gradient that attacks follow is misleading (D7)"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    results = tuple(
        DiagnosticResult(id="D7", name="a check", model=model, status=status, sentence="It says so.")
        for model, status in ((BROKEN, "fail"), (SOUND, "ok"))
    )
    record = DiagnosticsRecord(results=results, passes=1, planned_passes=50)
    sample = SampleRun(has_images=False, diagnostics=record.to_json())
    return build_run(tmp_path_factory.mktemp("marks") / "run", sample)


@pytest.fixture(scope="module")
def content(directory):
    with RunStore.open_readonly(directory) as store:
        return read_report_data(store)


@pytest.fixture(scope="module")
def results(directory):
    with RunStore.open_readonly(directory) as store:
        return load_results(store)


def test_every_share_of_results_json_is_marked(results):
    for part in ("cells", "worst_case"):
        assert len(results[part]) > 1
        for entry in results[part]:
            is_sound = entry["model"] == SOUND
            assert entry["trustworthy"] == is_sound
            assert entry["distrust"] == ([] if is_sound else ["D7"])
            assert entry["mark"] == ("" if is_sound else MARK)


def test_every_row_of_the_table_of_cells_is_marked(content):
    rows = list(csv.DictReader(io.StringIO(format_results_csv(content.evidence))))
    assert {(row["model"], row["distrust"]) for row in rows} == {(BROKEN, "D7"), (SOUND, "")}


def test_every_row_on_the_terminal_is_marked(results):
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(build_results_table(results))
    rows = [line for line in console.export_text().splitlines() if "%" in line and "linf" in line]
    assert len(rows) >= 6
    assert all((MARK in line) == (BROKEN in line) for line in rows), rows


def test_every_sentence_of_the_summary_is_marked(content):
    evidence = content.evidence
    for text, mark in ((describe_answer(evidence), EXPLAINED), (describe_eight_bit_answer(evidence), MARK)):
        parts = re.split("; ", text)
        assert any(mark in part for part in parts if BROKEN in part), text
        assert not any(mark in part for part in parts if SOUND in part), text
    assert all(MARK in text for text in describe_comparisons(evidence))


def test_every_square_of_the_heat_map_is_marked(content):
    for row in build_heatmap(content.evidence).rows:
        assert {entry.mark for entry in row.entries} == {MARK if str(row.subject) == BROKEN else ""}


def test_every_table_of_the_report_in_markdown_is_marked(directory):
    with RunStore.open_readonly(directory) as store:
        text = render_markdown(read_report_data(store), ())
    sections = re.split("^## ", text, flags=re.MULTILINE)
    marked = set()
    for section in sections:
        title = section.partition("\n")[0]
        rows = [line for line in section.splitlines() if line.startswith(f"| {BROKEN}") and "%" in line]
        if rows and title != "Can these numbers be trusted?":
            assert all(MARK in row for row in rows), (title, rows)
            marked.add(title)
    assert {"Robust accuracy", "Worst case in 8 bits"} <= marked
    assert not [line for line in text.splitlines() if line.startswith(f"| {SOUND}") and MARK in line]


def test_the_page_is_marked_in_every_section(content):
    page = render(content)
    for section in ("attacks", "targets", "radius", "method"):
        body = page[page.index(f'id="{section}"') :]
        assert MARK in body[: body.index("</section>")], section


def test_the_figures_of_curves_and_targets_name_the_mark(content, monkeypatch):
    drawn = {}

    def record_names(section, _content, names):
        drawn[type(section).__name__] = sorted(names.values())
        return iter(())

    for part in content.list_shown_sections():
        monkeypatch.setattr(type(part.section), "draw_figures", record_names)
    draw_figures(content)
    assert drawn["CurvesSection"] == drawn["TargetsSection"] == [SOUND, f"{BROKEN}, not trustworthy"]
    assert drawn["HeatmapSection"] == [SOUND, BROKEN], "each of its squares has a mark"
