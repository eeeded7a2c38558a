"""Sections: one interface for all files of a report, and every result computed once."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import sys
from collections import Counter
from types import FunctionType

import pytest
from sample_run import build_run
from sample_stickers import build_sticker_run
from sample_transfers import TRANSFER_SAMPLE

from robustbench_local.reports import analysis, write_report
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.run_warnings import list_findings
from robustbench_local.reports.sections import SECTIONS, report_data
from robustbench_local.reports.sections.section import Section
from robustbench_local.reports.writers import results_json
from robustbench_local.reports.writers.results_json import load_results
from robustbench_local.store import RunStore

pytestmark = pytest.mark.usefixtures("blank_figures")

NOT_OF_EVIDENCE_ALONE = {"find_severity_table", "build_example_image"}
"""They are asked once for each model and source class, and for each image."""


class CellCountSection(Section[int]):
    """A section that is as short as one can be."""

    anchor = "cell-count"
    title = "How many cells"
    link_text = "Cells"
    template = "cell_count.html.j2"
    explanation = "A cell is one attack on one model."

    def build_content(self, evidence, store):
        return len(evidence.cells)

    def to_markdown(self, content, evidence):
        return [f"## {self.title}", "", f"{content} cells. {self.explanation}", ""]

    def to_json(self, evidence):
        return {"cell_count": len(evidence.cells)}

    def read_template(self):
        return "<p>{{ content }} cells. {{ section.explanation }}</p>"


@pytest.fixture
def with_cell_count(monkeypatch):
    sections = (*SECTIONS, CellCountSection())
    monkeypatch.setattr(report_data, "SECTIONS", sections)
    return sections


@pytest.mark.usefixtures("with_cell_count")
def test_a_section_in_the_list_is_in_every_file(sample, tmp_path):
    page = write_report(sample.run_dir, tmp_path / "report.html")
    count = len(json.loads(sample.read_text("results.json"))["cells"])
    sentence = f"{count} cells. A cell is one attack on one model."
    html, markdown = page.read_text("utf-8"), (tmp_path / "report.md").read_text("utf-8")
    assert '<a href="#cell-count">Cells</a>' in html
    assert '<h2 id="cell-count">How many cells <a class="anchor" href="#cell-count"' in html
    assert f"</a></h2>\n<p>{sentence}</p>" in html
    assert f"## How many cells\n\n{sentence}\n" in markdown
    assert json.loads((tmp_path / "results.json").read_text("utf-8"))["cell_count"] == count


@pytest.mark.usefixtures("with_cell_count")
def test_a_section_with_nothing_to_say_is_in_no_file(sample, tmp_path, monkeypatch):
    monkeypatch.setattr(CellCountSection, "is_shown", lambda self, content: False)
    page = write_report(sample.run_dir, tmp_path / "report.html")
    assert "cell-count" not in page.read_text("utf-8")
    assert "How many cells" not in (tmp_path / "report.md").read_text("utf-8")


def test_sections_have_anchors_of_their_own():
    assert len({section.anchor for section in SECTIONS}) == len(SECTIONS)
    for section in SECTIONS:
        if section.template:
            assert section.title
            assert section.link_text
            assert section.read_template()


def test_a_program_reads_the_same_as_the_file(sample, monkeypatch):
    sections = (*SECTIONS, CellCountSection())
    monkeypatch.setattr(results_json, "SECTIONS", sections)
    with RunStore.open_readonly(sample.run_dir) as store:
        results = load_results(store)
    assert results.pop("cell_count") == len(results["cells"])
    assert json.loads(json.dumps(results)) == json.loads(sample.read_text("results.json"))


@pytest.mark.parametrize("kind", ["transfers", "stickers", pytest.param("ordinary", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_no_result_is_computed_twice_for_one_report(tmp_path, kind):
    run = tmp_path / "run"
    build_sticker_run(run) if kind == "stickers" else build_run(
        run, TRANSFER_SAMPLE if kind == "transfers" else None
    )
    functions = dict(_iterate_builders())
    frames = set()  # a generator that goes on is no further call

    def remember(frame, event, _):
        if event == "call" and frame.f_code in functions:
            frames.add(frame)

    sys.setprofile(remember)
    try:
        write_report(run)
    finally:
        sys.setprofile(None)
    calls = Counter(functions[frame.f_code] for frame in frames)
    assert {"find_violations", "build_sticker_results", "find_disagreements", "judge_evidence"} <= set(calls)
    assert {name: times for name, times in calls.items() if times > 1} == {}


def _iterate_builders():
    """Code of what builds or finds something from the evidence, with its name."""
    for module in pkgutil.iter_modules(analysis.__path__, analysis.__name__ + "."):
        for name, value in vars(importlib.import_module(module.name)).items():
            function = inspect.unwrap(value) if callable(value) else None
            if (
                isinstance(function, FunctionType)
                and function.__module__ == module.name
                and name.startswith(("build_", "find_", "judge_", "list_findings", "index_"))
                and name not in NOT_OF_EVIDENCE_ALONE
                and "evidence" in inspect.signature(function).parameters
            ):
                yield function.__code__, name


def test_a_changed_copy_of_the_evidence_keeps_no_result(sample):
    with RunStore.open_readonly(sample.run_dir) as store:
        content = report_data.read_report_data(store)
    evidence: Evidence = content.evidence
    assert list_findings(evidence) is list_findings(evidence) is content.findings
    changed = Evidence(cells=(), worst_cases=())
    assert changed.derived == {}
    assert list_findings(changed) != content.findings
