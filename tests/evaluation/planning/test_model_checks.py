"""The first look at the models of a plan: once a model, not again when resumed, kept with the run."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from robustbench_local.classifier import Classifier
from robustbench_local.cli.model_table import build_model_table, list_model_objects
from robustbench_local.errors import ModelError
from robustbench_local.evaluation.execution.progress_listener import ProgressListener
from robustbench_local.evaluation.options import Options
from robustbench_local.evaluation.planning import model_checks
from robustbench_local.evaluation.planning.model_checks import (
    MAX_SERVICE_IMAGES,
    check_plan_models,
    check_subject,
)
from robustbench_local.evaluation.probes.preprocessing_probe import FIRST_IMAGES
from robustbench_local.models.endpoint_options import EndpointOptions
from robustbench_local.models.http_client import EndpointClient
from robustbench_local.models.http_model import Endpoint
from robustbench_local.reports.analysis.gates import judge_evidence
from robustbench_local.reports.analysis.read_run import read_evidence
from robustbench_local.reports.analysis.run_warnings import list_findings
from robustbench_local.run import _merge_models, execute_run, prepare_run
from robustbench_local.store.preprocessing_record import PREPROCESSING_CHECK_KEY, PreprocessingCheck
from robustbench_local.store.run_store import RunStore

GRID = {
    "name": "looked at",
    "data": {"source": "signs", "limit": 72},
    "models": [
        {"id": "right", "source": "zoo:signs-plain", "defenses": ["none", "bit-depth-3"]},
        {"id": "bgr", "source": "zoo:signs-plain", "preprocessing": {"channel_order": "bgr"}},
        {"id": "absent", "source": "checkpoint:absent.pt"},
    ],
    "attacks": [{"card": "fgsm-linf-8", "limit": 4}],
    "gates": [
        {"metric": "robust_accuracy", "threat": "linf-8", "model": "bgr", "min": 0.0, "on": "estimate"}
    ],
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory):
    """The plan of the grid and the directory of its run, which has not been made."""
    folder = tmp_path_factory.mktemp("looks") / "run"
    return prepare_run(GRID, folder, options=Options(device="cpu", workers=1))


def read_check(subject) -> PreprocessingCheck:
    return PreprocessingCheck.from_json(subject.description[PREPROCESSING_CHECK_KEY])


def test_each_model_is_looked_at_once_and_a_wrong_one_is_named(prepared):
    plan, _ = prepared
    checks = {str(subject): read_check(subject) for subject in plan.subjects if subject.problem is None}
    assert checks["right"] == checks["right + bit-depth-3"]  # of the model without the wrapper
    assert checks["right"].n == checks["bgr"].n == FIRST_IMAGES
    assert (checks["right"].better, checks["right"].passes) == (None, FIRST_IMAGES)
    assert checks["bgr"].better is not None
    assert PREPROCESSING_CHECK_KEY not in plan.subjects[-1].description
    line = next(line for line in plan.warnings if "looks wrong" in line)
    assert line.startswith("the preprocessing of bgr looks wrong: ")
    assert line.endswith("leave normalize, input_size and preprocessing out of its entry")


def test_the_table_shows_accuracy_input_and_preprocessing_with_their_origin(prepared):
    plan, _ = prepared
    stream = io.StringIO()
    Console(file=stream, width=140).print(build_model_table(plan))
    rows = [line for line in stream.getvalue().splitlines() if "3x32x32" in line]
    assert len(rows) == 2  # neither the wrapped model nor the one that cannot be loaded
    assert "of 64 images (" in rows[0]
    assert "card" in rows[0]
    assert "BGR, mean 0.4" in rows[1]
    assert "declared, the rest: card" in rows[1]
    told = list_model_objects(plan)
    assert [entry["model"] for entry in told] == ["right", "bgr"]
    assert told[1]["preprocessing"]["channel_order"] == "bgr"
    assert told[1]["preprocessing_from"] == "declared, the rest: card"
    json.dumps(told)
    assert build_model_table(replace(plan, subjects=())) is None


@pytest.fixture
def begun(prepared, tmp_path: Path):
    """A run that has stored its models only."""
    plan, _ = prepared
    described = {"resolved_yaml": plan.resolved_yaml, "identity": plan.identity}
    with RunStore.create_or_open(tmp_path / "run", **described) as store:
        store.update_meta(plan.description)
        yield store


def test_a_resumed_run_asks_no_model_again(prepared, begun: RunStore, monkeypatch):
    plan, _ = prepared
    begun.close()
    monkeypatch.setattr(model_checks, "check_subject", lambda *_: pytest.fail("asked again"))
    again = check_plan_models(replace(plan, warnings=()), begun.directory)
    assert again.warnings == tuple(line for line in plan.warnings if "looks wrong" in line)
    assert list_model_objects(again) == list_model_objects(plan)


def test_a_run_from_before_such_looks_keeps_one_now(prepared, begun: RunStore):
    plan, _ = prepared
    older = [
        {key: value for key, value in about.items() if key != PREPROCESSING_CHECK_KEY}
        for about in plan.description["models"]
    ]
    begun.update_meta({"models": [{**about, "digest": "as it was"} for about in older]})
    merged = _merge_models(plan, begun)
    assert [PREPROCESSING_CHECK_KEY in about for about in merged] == [True, True, True, False]
    assert merged[0]["digest"] == "as it was"


@pytest.mark.slow
def test_the_report_says_what_was_found(prepared):
    plan, folder = prepared
    execute_run(plan, folder, ProgressListener())
    with RunStore.open_readonly(folder) as store:
        evidence = read_evidence(store)
    found = {
        (result.model, result.id): result
        for result in evidence.diagnostics.results
        if result.id in {"D27", "D31"} and result.defense == "none"
    }
    assert {key: result.status for key, result in found.items()} == {
        ("right", "D27"): "ok",
        ("right", "D31"): "ok",
        ("bgr", "D27"): "fail",
        ("bgr", "D31"): "ok",
    }
    assert found["bgr", "D27"].passes == (0, 0)
    findings = [finding for finding in list_findings(evidence) if "D27" in finding.text]
    assert findings[0].level == "untrusted"
    assert "The preprocessing looks wrong" in findings[0].text
    assert judge_evidence(evidence).verdicts[0].ruling == "inconclusive"


def test_a_model_that_fails_is_left_to_the_evaluation(prepared):
    plan, _ = prepared

    def answer(_images: torch.Tensor) -> torch.Tensor:
        raise ModelError("is out of order")

    subject = replace(plan.subjects[0], classifier=Classifier(answer, num_classes=43, name="box"))
    check = check_subject(subject, timeout=30.0)
    assert (check.n, check.better) == (0, None)
    assert "is out of order" in check.unchecked
    subject.description[PREPROCESSING_CHECK_KEY] = check.to_json()
    table = build_model_table(replace(plan, subjects=(subject,)))
    assert table is not None
    assert next(iter(table.columns[1].cells)).plain.startswith("not asked: ")


def test_a_model_that_draws_random_numbers_is_tried_in_its_range_only(prepared):
    """Where noise is added, a stronger contrast alone makes a sound model better."""
    plan, _ = prepared
    subject = plan.subjects[0]
    wrong = subject.data.labels.roll(1)
    told = []
    for draws in (False, True):
        classifier = Classifier(subject.classifier.model, num_classes=43, name="noisy")
        consistency = replace(classifier.settings.consistency, draws_numbers=draws)
        classifier.configure(consistency=consistency)
        data = replace(subject.data, labels=wrong)
        check = check_subject(replace(subject, classifier=classifier, data=data), timeout=30.0)
        told.append(check.forms)
    assert told[0] > 20 > told[1] > 2


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, MAX_SERVICE_IMAGES),
        ({"rate": 0.01, "batch": 1}, 1),
        ({"rate": 0.5, "format": "png"}, 5),
        ({"rate": 0.5, "batch": 4}, 20),
        ({"rate": 0.5, "batch": 40}, MAX_SERVICE_IMAGES),
    ],
)
def test_a_service_is_asked_about_few_images(options, count):
    settings = EndpointOptions(**options)
    service = Endpoint(EndpointClient("http://127.0.0.1:9/x", settings), settings, "scores")
    assert model_checks._count_service_images(service) == count


def test_a_directory_that_is_no_run_is_no_hindrance(prepared, tmp_path: Path):
    plan, _ = prepared
    (tmp_path / "run.db").write_bytes(b"no database")
    assert check_plan_models(replace(plan, subjects=()), tmp_path).warnings == plan.warnings
