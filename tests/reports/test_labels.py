"""Labels in every form of a report: people read them, programs find the identifiers."""

from __future__ import annotations

import csv
import json

import pytest
from rich.console import Console
from sample_run import SampleRun, build_run

from robustbench_local.cli.result_tables import build_results_table
from robustbench_local.reports import write_report
from robustbench_local.reports.analysis.gates import judge_run_dir
from robustbench_local.reports.analysis.read_run import read_evidence
from robustbench_local.reports.analysis.run_warnings import list_findings
from robustbench_local.store import RunStore
from robustbench_local.store.run_labels import LABELS_KEY, RunLabels

pytestmark = pytest.mark.usefixtures("blank_figures")

ATTACK_LABELS = {
    "fgsm-linf-8": "FGSM",
    "pgd50-linf-2": "PGD-50, eps 2/255",
    "pgd50-linf-4": "PGD-50, eps 4/255",
    "pgd50-linf-8": "PGD-50, eps 8/255",
    "autoattack-linf-8": "AutoAttack, Linf eps 8/255",
    "autoattack-l2-0.5": "AutoAttack, L2 eps 0.5",
    "stop-to-speed-limit": "Stop to speed limit",
}
LABELS = RunLabels(
    attacks=ATTACK_LABELS,
    families={name: label.partition(",")[0] for name, label in ATTACK_LABELS.items()},
    models={("signs-plain", "none"): "Baseline", ("signs-pgd-at", "none"): "Trained"},
)
GATE = {"metric": "robust_accuracy", "attack": "pgd50-linf-8", "min": 0.2}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    run = build_run(tmp_path_factory.mktemp("labelled") / "run", SampleRun(gates=(GATE,)))
    with RunStore.create_or_open(run, resolved_yaml="schema: 1\n", identity={"grid": "sample"}) as store:
        store.set_meta(LABELS_KEY, LABELS.to_metadata())
    write_report(run)
    return run


def read_table(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_what_people_read_has_labels(labelled):
    page, markdown = ((labelled / name).read_text("utf-8") for name in ("report.html", "report.md"))
    results = json.loads((labelled / "results.json").read_text("utf-8"))
    console = Console(width=140)
    with console.capture() as capture:
        console.print(build_results_table(results))
    terminal = capture.get()
    for text in (page, markdown, terminal):
        assert "Baseline" in text
        assert "PGD-50, eps 8/255" in text
    assert not [label for label in ATTACK_LABELS if label in terminal]
    listed = markdown.partition("## Attacks and certificates")[0]
    assert "pgd50-linf-4" not in listed
    assert "signs-plain" not in listed


def test_programs_find_identifiers_and_labels(labelled):
    cells = json.loads((labelled / "results.json").read_text("utf-8"))["cells"]
    assert {cell["attack"]: cell["label"] for cell in cells} == ATTACK_LABELS
    assert {(cell["model"], cell["model_label"]) for cell in cells} == {
        ("signs-plain", "Baseline"),
        ("signs-pgd-at", "Trained"),
    }
    for name in ("results.csv", "outcomes.csv"):
        rows = read_table(labelled / name)
        assert all(ATTACK_LABELS[row["attack"]] == row["attack_label"] for row in rows)


def test_findings_and_gates_use_labels(labelled):
    report = judge_run_dir(labelled)
    judged = [line.text for line in report.lines if line.status]
    assert judged
    assert all("robust_accuracy[PGD-50, eps " in line for line in judged)
    with RunStore.open_readonly(labelled) as store:
        findings = list_findings(read_evidence(store))
    failed = [finding.text for finding in findings if finding.level == "incomplete"]
    assert failed[0].startswith("AutoAttack, L2 eps 0.5 on Baseline failed")


def test_a_run_without_labels_is_shown_under_its_identifiers(sample):
    cells = json.loads(sample.read_text("results.json"))["cells"]
    assert all(cell["label"] == cell["attack"] for cell in cells)
    assert all(cell["model_label"] == cell["model"] for cell in cells)
