"""The summary that a run stores: the same as its report, and only for what it was computed from."""

from __future__ import annotations

import shutil

import pytest
from sample_run import SampleRun, build_run
from view_samples import GATE, IDENTITY, PLANS, build_sample

from robustbench_local.reports.analysis.gates import judge_run_dir
from robustbench_local.reports.analysis.read_run import read_evidence
from robustbench_local.reports.summary.run_summary_rows import read_summary, store_summary
from robustbench_local.reports.summary.run_verdict import build_run_verdict
from robustbench_local.statistics import Estimate
from robustbench_local.store import RunStore
from robustbench_local.store.run_listing import read_listing
from robustbench_local.store.run_summary import SUMMARY_KEY, RunSummary, SummaryRow, decode_summary


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    gates = tuple({**GATE, "min": limit} for limit in (0.05, 0.999))
    sample = SampleRun(models=("signs-plain", "signs-pgd-at"), images=48, failing_cell=None, gates=gates,
                       plans=PLANS)  # fmt: skip
    return build_sample(tmp_path_factory.mktemp("summary") / "run", sample)


def open_for_writing(folder):
    return RunStore.create_or_open(folder, resolved_yaml="schema: 1\n", identity=IDENTITY)


def test_the_stored_summary_says_what_the_report_says(run):
    summary = read_listing(run).summary
    with RunStore.open_readonly(run) as store:
        assert read_summary(store) == summary
        evidence = read_evidence(store)
    assert summary.verdict == "fail"
    assert summary.gate_counts == judge_run_dir(run).counts
    verdict = build_run_verdict(evidence, judge_run_dir(run))
    assert (summary.sentence, summary.advice) == (verdict.sentence, verdict.advice)
    assert "limits are not met" in summary.sentence
    worst = {str(case.subject): case.robust_accuracy for case in evidence.worst_cases}
    assert {row.label: row.rate for row in summary.rows} == worst
    assert summary.rows[0].attacks == ("fgsm-linf-8", "pgd50-linf-8")
    assert RunSummary.from_json(summary.to_json()) == summary


@pytest.mark.parametrize(
    ("change", "is_known"),
    [
        (lambda store, key: store.set_status(key, "partial"), False),
        (lambda store, key: store.set_meta("gates", []), False),
        (lambda store, key: store.set_meta("intervals of the gates", []), True),
        (lambda store, key: store.set_meta(SUMMARY_KEY, {"of": "something else"}), False),
        (lambda store, key: store.set_meta(SUMMARY_KEY, "nonsense"), False),
        (lambda store, key: (store.directory / "load_test.json").write_text("[]"), False),
    ],
)
def test_a_summary_holds_for_what_it_was_computed_from(run, tmp_path, change, is_known):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    with open_for_writing(copy) as store:
        change(store, store.read_cells()[0].key)
    assert (read_listing(copy).summary is not None) is is_known
    (copy / "load_test.json").unlink(missing_ok=True)
    with open_for_writing(copy) as store:
        store_summary(store)
    assert read_listing(copy).summary is not None


def test_a_malformed_summary_is_none():
    row = SummaryRow(
        model="m", defense="none", label="m", digest="", threat="linf-8", threat_text="", attacks=("fgsm",),
        quantity="robust accuracy", clean=Estimate(value=float("nan"), low=0, high=1, n=0),
        rate=Estimate(value=0.5, low=0.2, high=0.8, n=10, groups=5, phases=(10, 4)), is_complete=True,
        mark="",
    )  # fmt: skip
    content = {"of": "it", **RunSummary(verdict="pass", rows=(row,)).to_json()}
    decoded = decode_summary(content, "it")
    assert decoded is not None
    assert decoded.rows[0].rate == row.rate
    assert not decoded.rows[0].clean.is_known
    for key, value in (("schema", 0), ("rows", [{}]), ("rows", None), ("rows", 3), ("gate_counts", 1)):
        assert decode_summary({**content, key: value}, "it") is None


def test_an_unfinished_run_has_counts_of_its_cells(tmp_path):
    statuses = {("signs-plain", "fgsm-linf-8"): "pending"}
    build_run(tmp_path, SampleRun(images=16, failing_cell=None, plans=PLANS, statuses=statuses))
    listing = read_listing(tmp_path)
    assert (listing.unfinished_count, dict(listing.status_counts)) == (1, {"pending": 1, "done": 3})
    assert listing.data["name"] == "signs"
