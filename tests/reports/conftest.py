"""Runs to report on, made once: an ordinary one and one whose every name attacks the reader."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from sample_beyond import TRANSFER_SAMPLE
from sample_run import HOSTILE_CLASS_NAMES, SampleRun, build_run

from robustbench_local.reports import write_report
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.read_run import read_evidence
from robustbench_local.reports.analysis.report_data import ReportData, read_report_data
from robustbench_local.store import RunStore

HOSTILE_MODELS = ("<script>alert(1)</script>", "=cmd()|`$a$`", "نموذج\u202e", "模型🚦")


@dataclass(frozen=True)
class WrittenReport:
    """A run with its report."""

    run: Path
    page: Path

    def text(self, name: str) -> str:
        return (self.page.parent / name).read_text(encoding="utf-8")

    @property
    def html(self) -> str:
        return self.page.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def reported():
    """A function: a run with its report, written beside it."""
    return lambda run: WrittenReport(run=run, page=write_report(run))


@pytest.fixture(scope="session")
def sample(tmp_path_factory) -> WrittenReport:
    gates = ({"metric": "robust_accuracy", "threat": "linf-8", "min": 0.2},)
    run = build_run(tmp_path_factory.mktemp("sample") / "run", SampleRun(gates=gates))
    return WrittenReport(run=run, page=write_report(run))


@pytest.fixture(scope="session")
def hostile(tmp_path_factory) -> WrittenReport:
    made = SampleRun(
        models=HOSTILE_MODELS, class_names=HOSTILE_CLASS_NAMES, images=32, question="<b>really?</b> | `x`"
    )
    folder = tmp_path_factory.mktemp("hostile")
    run = build_run(folder / "run", made)
    return WrittenReport(run=run, page=write_report(run, folder / "out" / "hostile report.html"))


@pytest.fixture(scope="session")
def content(sample) -> ReportData:
    with RunStore.open_readonly(sample.run) as store:
        return read_report_data(store)


@pytest.fixture(scope="session")
def beyond(tmp_path_factory) -> WrittenReport:
    """A run with distances, black boxes, transfers, corruptions and a spatial attack."""
    run = build_run(tmp_path_factory.mktemp("beyond") / "run", TRANSFER_SAMPLE)
    return WrittenReport(run=run, page=write_report(run))


@pytest.fixture(scope="session")
def beyond_content(beyond) -> ReportData:
    with RunStore.open_readonly(beyond.run) as store:
        return read_report_data(store)


@pytest.fixture
def evidence_of(tmp_path):
    """A function: the evidence of a sample run, built anew."""

    def read(**changes) -> Evidence:
        with RunStore.open_readonly(
            build_run(tmp_path / "run", SampleRun(pictures=False, **changes))
        ) as store:
            return read_evidence(store)

    return read
