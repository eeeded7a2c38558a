"""Runs to report on, made once: an ordinary one and one whose every name attacks the reader."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from sample_run import HOSTILE_CLASS_NAMES, HOSTILE_MODELS, SampleRun, build_run
from sample_transfers import TRANSFER_SAMPLE

from robustbench_local.reports import write_report
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.read_run import read_evidence
from robustbench_local.reports.sections.report_data import ReportData, read_report_data
from robustbench_local.store import RunStore


@dataclass(frozen=True)
class WrittenReport:
    """A run with its report."""

    run_dir: Path
    page_path: Path

    def read_text(self, name: str) -> str:
        return (self.page_path.parent / name).read_text(encoding="utf-8")

    @property
    def html(self) -> str:
        return self.page_path.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def report_run():
    """A function: a run with its report, written beside it."""
    return lambda run: WrittenReport(run_dir=run, page_path=write_report(run))


@pytest.fixture(scope="session")
def sample(tmp_path_factory) -> WrittenReport:
    gates = ({"metric": "robust_accuracy", "threat": "linf-8", "min": 0.2},)
    run = build_run(tmp_path_factory.mktemp("sample") / "run", SampleRun(gates=gates))
    return WrittenReport(run_dir=run, page_path=write_report(run))


@pytest.fixture(scope="session")
def hostile(tmp_path_factory) -> WrittenReport:
    made = SampleRun(
        models=HOSTILE_MODELS, class_names=HOSTILE_CLASS_NAMES, images=32, question="<b>really?</b> | `x`"
    )
    folder = tmp_path_factory.mktemp("hostile")
    run = build_run(folder / "run", made)
    return WrittenReport(run_dir=run, page_path=write_report(run, folder / "out" / "hostile report.html"))


@pytest.fixture(scope="session")
def content(sample) -> ReportData:
    with RunStore.open_readonly(sample.run_dir) as store:
        return read_report_data(store)


@pytest.fixture(scope="session")
def transfer_sample(tmp_path_factory) -> WrittenReport:
    """A run with distances, black boxes, transfers, corruptions and a spatial attack."""
    run = build_run(tmp_path_factory.mktemp("transfers") / "run", TRANSFER_SAMPLE)
    return WrittenReport(run_dir=run, page_path=write_report(run))


@pytest.fixture(scope="session")
def transfer_sample_content(transfer_sample) -> ReportData:
    with RunStore.open_readonly(transfer_sample.run_dir) as store:
        return read_report_data(store)


@pytest.fixture(scope="session")
def read_content():
    """A function: the content of the report of a run."""

    def read(run: Path) -> ReportData:
        with RunStore.open_readonly(run) as store:
            return read_report_data(store)

    return read


@pytest.fixture
def build_evidence(tmp_path):
    """A function: the evidence of a sample run, built anew."""

    def read(**changes) -> Evidence:
        with RunStore.open_readonly(
            build_run(tmp_path / "run", SampleRun(has_images=False, **changes))
        ) as store:
            return read_evidence(store)

    return read
