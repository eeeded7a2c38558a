"""All diagnostics of a model together: their budget, models that fail, and what a run stores."""

from __future__ import annotations

import pytest
import torch
from test_diagnostics import Brightness, make_images

import robustbench_local as rbl
from robustbench_local.classifier import Classifier
from robustbench_local.evaluation.diagnostics.diagnose import diagnose_model, list_unread_results
from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.diagnostic_registry import DIAGNOSTICS
from robustbench_local.evaluation.diagnostics.pass_budget import MAX_PASSES_SHARE, PassBudget
from robustbench_local.evaluation.execution.progress_listener import ProgressListener
from robustbench_local.store import RunStore
from robustbench_local.store.diagnostic_records import DIAGNOSTICS_KEY, DiagnosticsRecord
from robustbench_local.threats.threat_model import ThreatModel

THREATS = (ThreatModel(norm="Linf", eps=0.01), ThreatModel(norm="L2", eps=0.1))


class Counted(Brightness):
    """It counts the images that it is asked about."""

    asked = 0

    def forward(self, images):
        Counted.asked += len(images)
        return super().forward(images)


def make_subject(module=None, limit=10_000, n=64) -> DiagnosedModel:
    images = make_images([0.1 + 0.8 * (row * 29 % n) / n for row in range(n)])
    return DiagnosedModel(
        id="m", defense="none", classifier=Classifier(module or Brightness(), num_classes=2), images=images,
        labels=(images.mean(dim=(1, 2, 3)) > 0.5).long(), ids=tuple(map(str, range(n))),
        budget=PassBudget(limit=limit), seed=0,
    )  # fmt: skip


@pytest.mark.parametrize("limit", [0, 30, 60, 200, 600, 2_000, 10_000])
def test_the_budget_is_kept_as_counted_in_the_model(limit):
    Counted.asked = 0
    model = make_subject(Counted(), limit)
    results = diagnose_model(model, THREATS)
    assert model.budget.spent <= limit
    assert Counted.asked <= limit
    assert len(results) == len(DIAGNOSTICS) + 1  # noise once for each norm
    asked_twice = [result for result in results if result.id == "D29"]
    assert [result.status for result in asked_twice] == ["not run"], "the probe of a run asks it"
    results = tuple(result for result in results if result.id != "D29")
    statuses = {result.status for result in results}
    assert statuses <= {"ok", "not run"}, [result.sentence for result in results]
    assert ("not run" in statuses) == (limit < 2_000)
    asked = {result.id for result in results if result.status == "ok"}
    assert ({"D4", "D6a", "D6b", "D6c", "D7", "D18", "D20"} <= asked) == (limit >= 30), asked
    assert all("too small" in one.sentence for one in results if one.status == "not run")


def test_results_come_one_by_one_and_do_not_depend_on_the_run():
    received = []
    results = diagnose_model(make_subject(), THREATS, received.append)
    assert tuple(received) == results == diagnose_model(make_subject(), THREATS)
    assert [one.threat for one in results if one.id == "D10"] == ["linf-2.55", "l2-0.1"]


def test_a_model_that_raises_has_no_diagnostics_and_the_reason():
    class Raising(Brightness):
        def forward(self, images):
            raise RuntimeError("out of order")

    results = diagnose_model(make_subject(Raising()), THREATS)
    assert {result.status for result in results} == {"not run"}
    assert all("out of order" in result.sentence for result in results)


def test_what_a_crash_left_is_completed():
    model = make_subject()
    some = diagnose_model(model, THREATS)[:3]
    results = list_unread_results(model, THREATS, "the process ended", some)
    assert results[:3] == some
    assert {result.sentence for result in results[3:]} == {"Not checked: the process ended."}


def test_a_record_survives_json():
    record = DiagnosticsRecord(results=diagnose_model(make_subject(), THREATS), passes=7, planned_passes=70)
    assert DiagnosticsRecord.from_json(record.to_json()) == record
    assert record.passes_share == MAX_PASSES_SHARE


GRID = {
    "data": {"source": "signs", "limit": 20},
    "models": [{"id": "plain", "source": "zoo:signs-plain"}],
    "attacks": [{"card": "pgd20-linf-8", "steps": 5}],
}


def test_a_run_asks_each_model_once_and_stores_the_cost(tmp_path):
    heard = []

    class Listener(ProgressListener):
        def on_diagnosis_end(self, diagnosis):
            heard.append(diagnosis)

    run = rbl.run_grid(GRID, tmp_path / "run", listener=Listener())
    with RunStore.open_readonly(run.directory) as store:
        record = DiagnosticsRecord.from_json(store.read_meta(DIAGNOSTICS_KEY))
    assert heard == [record]
    assert 0 < record.passes_share <= MAX_PASSES_SHARE
    assert {result.model for result in record.results} == {"plain"}
    assert not [result for result in record.results if not result.is_trusted]
    shown = run.results["diagnostics"]
    assert shown["passes"] == record.passes
    assert {"D8", "D22", "D4"} <= {result["id"] for result in shown["results"]}
    rbl.run_grid(GRID, tmp_path / "run", listener=Listener())
    assert len(heard) == 1, "a finished run asks nothing"


@pytest.mark.slow
def test_published_checkpoints_and_shipped_networks_have_no_false_failure(shared_data):
    data = rbl.load_dataset("signs", limit=64)
    for name in ("signs-plain", "signs-pgd-at", "signs-trades", "signs-ibp", "signs-gaussian-0.25"):
        _assert_sound(rbl.load_classifier(f"zoo:{name}"), data.images, data.labels, 8 / 255)
    for file, architecture, eps in (
        ("mnist_fast_fgsm_wong2020", "mnist_fast", 0.3),
        ("mnist_trades_smallcnn", "mnist_smallcnn", 0.3),
        ("mnist_convex_eps0.1", "mnist_fast", 0.1),
    ):
        weights = shared_data / "checkpoints" / f"{file}.safetensors"
        classifier = rbl.load_classifier(f"checkpoint:{weights}", architecture=architecture)
        digits = rbl.load_dataset(f"npz:{shared_data / 'mnist_test_first1000.npz'}", limit=64)
        _assert_sound(classifier, digits.images, digits.labels, eps)


def _assert_sound(classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, eps: float) -> None:
    model = DiagnosedModel(
        id=classifier.name, defense="none", classifier=classifier, images=images, labels=labels,
        ids=tuple(map(str, range(len(images)))), budget=PassBudget(limit=9_000), seed=0,
    )  # fmt: skip
    results = diagnose_model(model, [ThreatModel(norm="Linf", eps=eps)])
    alarms = [one.sentence for one in results if one.status not in ("ok", "not run")]
    assert alarms == []
    assert {one.id for one in results if one.status == "not run"} == {"D29"}, "the probe of a run asks it"
