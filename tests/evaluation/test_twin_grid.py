"""``twin:`` in a grid and in `evaluate`: what is run, recorded and reported, and what is refused."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

import robustbench_local as rbl
from robustbench_local.certification.bound_propagation.ibp import IBP
from robustbench_local.classifier import Classifier
from robustbench_local.config.strict_yaml import parse_yaml
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.grid.schema import load_grid
from robustbench_local.evaluation.harness.attack_goal import AttackGoal
from robustbench_local.evaluation.options import Options
from robustbench_local.evaluation.planning.planner import make_plan
from robustbench_local.evaluation.planning.skip_reasons import (
    TWIN_CERTIFICATE_REASON,
    find_certificate_obstacle,
)
from robustbench_local.reports.analysis.attack_warnings import _WEAKENING_NOTE_PATTERN
from robustbench_local.store.run_store import RunStore
from robustbench_local.threats.threat_model import ThreatModel

ROOT = Path(__file__).parents[2]
LINF = ThreatModel(norm="Linf", eps="1/255")
ARTEFACT = '{id: second, source: "checkpoint:second.safetensors", architecture: mnist_fast, access: scores'
FLOAT = '{id: first, source: "checkpoint:first.safetensors", architecture: mnist_fast}'
ATTACKS = """
attacks:
  - {card: pgd50-linf-8, steps: 4}
  - {card: square, norm: Linf, eps: 8/255, queries: 20}
  - {card: ibp, norm: Linf, eps: 1/255}
gates:
  - {metric: robust_accuracy, threat: linf-8, min: 0.01, on: estimate}
"""


def build_grid(twin: str, models: str = "") -> dict:
    text = f'data: {{source: "npz:digits.npz"}}\nmodels: [{models}{ARTEFACT}{twin}}}]\n{ATTACKS}'
    return parse_yaml(text, where="test", error=ConfigError)


def plan(content: dict, workplace, **options):
    return make_plan(load_grid(content)[0], Options(batch_size=20, **options), base_folder=workplace)


@pytest.mark.slow
def test_the_model_decides_and_the_report_has_both(workplace):
    content = build_grid(f", twin: {FLOAT.replace('id: first, ', '')}, twin_queries: 10")
    run = rbl.run_grid(content, out="runs/twin", options=rbl.Options(batch_size=20))
    assert run.is_complete
    with RunStore.open_readonly(run.directory) as store:
        cells = {cell.card: cell for cell in store.read_cells()}
        rows = store.read_outcomes(cells["pgd50-linf-8"].key)
        black_box = store.read_outcomes(cells["square"].key)
        diagnostics = {row["id"]: row for row in store.read_meta("diagnostics")["results"]}
    pgd = cells["pgd50-linf-8"]
    assert (pgd.knowledge, pgd.twin, pgd.surrogate) == ("white-box", "checkpoint:first.safetensors", None)
    assert cells["square"].knowledge == "scores"
    assert pgd.identity["finish queries"] == "10"
    assert pgd.note.startswith("searched on the gradients of checkpoint:first.safetensors")
    assert (cells["ibp"].status, cells["ibp"].twin) == ("done", None)  # it is about the model itself
    assert all(row.twin_forward_passes and row.twin_broken is not None for row in (*rows, *black_box))
    assert {row.backward_passes for row in rows} == {0}
    assert diagnostics["D6b"]["sentence"].startswith("Of its twin: ")
    assert diagnostics["D6b"]["model"] == "second"
    check_report(run, rows)
    again = rbl.run_grid(content, out="runs/twin", options=rbl.Options(batch_size=20))
    assert again.is_complete
    with RunStore.open_readonly(run.directory) as store:
        assert store.read_outcomes(pgd.key) == rows
    resolved, _ = load_grid(workplace / "runs/twin/run.yaml")
    assert resolved.models[0].twin.source == "checkpoint:first.safetensors"


def check_report(run, rows):
    run.report()
    results = json.loads((run.directory / "results.json").read_text(encoding="utf-8"))
    entry = results["twins"][0]
    described = yaml.safe_load(
        (ROOT / "docs/reference_generator/results_keys.yaml").read_text(encoding="utf-8")
    )
    assert {f"twins[].{key}" for key in entry} == {key for key in described if key.startswith("twins[].")}
    robust, twin_robust = (
        sum(row.clean_correct and not row.broken for row in rows),
        sum(row.twin_clean_correct and not row.twin_broken for row in rows),
    )
    assert entry["robust_accuracy"]["value"] == robust / 40
    assert entry["twin_robust_accuracy"]["value"] == twin_robust / 40
    assert entry["gap"]["value"] == pytest.approx((robust - twin_robust) / 40)
    assert entry["gap"]["n"] == 40
    only = [
        row.image
        for row in rows
        if (row.broken or not row.clean_correct) and row.twin_clean_correct and not row.twin_broken
    ]
    assert entry["only_model_lost"] == only
    assert sum(entry["phases"].values()) == sum(row.broken for row in rows)
    assert entry["clean_difference"]["n"] == 40
    assert results["cells"][0]["robust_accuracy"]["value"] == robust / 40
    report, page = (
        (run.directory / name).read_text(encoding="utf-8") for name in ("report.md", "report.html")
    )
    assert "## Artefact and twin" in report
    assert "only the artefact loses" in report
    assert "Artefact and twin" in page
    with (run.directory / "results.csv").open(encoding="utf-8", newline="") as file:
        columns = next(csv.DictReader(file))
    assert columns["twin"] == "checkpoint:first.safetensors"
    assert float(columns["twin_robust_accuracy"]) == twin_robust / 40


def test_a_model_of_the_grid_is_a_twin_and_the_wrong_one_is_named(workplace):
    planned = plan(build_grid(", twin: first", f"{FLOAT}, "), workplace)
    assert not any("as its twin" in line for line in planned.warnings)
    by_model = {cell.subject.id: cell for cell in planned.cells if cell.record.card == "pgd50-linf-8"}
    assert by_model["second"].record.twin == "first"
    assert by_model["second"].subject.twin.digest == by_model["first"].subject.digest
    assert by_model["first"].record.twin is None
    black_box = Classifier(lambda images: images.flatten(1)[:, :10], num_classes=10)
    subject = replace(by_model["second"].subject, classifier=black_box)
    goal = AttackGoal(threat=LINF, sources=(), positions=by_model["second"].positions, excluded=0)
    assert find_certificate_obstacle(IBP(), goal, subject).endswith(TWIN_CERTIFICATE_REASON)
    weights = load_file("first.safetensors")
    save_file({name: -value for name, value in weights.items()}, "wrong.safetensors")
    content = build_grid(', twin: {source: "checkpoint:wrong.safetensors", architecture: mnist_fast}')
    (warning,) = [line for line in plan(content, workplace).warnings if "as its twin" in line]
    assert warning.startswith("model second: gives only ")
    assert _WEAKENING_NOTE_PATTERN.search(warning)  # stands among the warnings of a report


@pytest.mark.parametrize(
    ("twin", "models", "message"),
    [
        (
            ", twin: frist",
            f"{FLOAT}, ",
            "twin of 'second' is neither a model nor a source: did you mean first?",
        ),
        (", twin: second", "", "'second' is its own twin"),
        (", twin: plain", "", "neither a model nor a source: write a source such as zoo:signs-plain"),
        (", twin: 5", "", "a twin is a source, the id of another model, or a mapping of model keys"),
        (", twin_queries: 5", "", "'second' has twin_queries and no twin"),
        (
            ', twin: {source: "zoo:signs-plain", twin: "zoo:signs-plain"}',
            "",
            "the twin of 'second' has a twin",
        ),
        (', twin: {sorce: "zoo:signs-plain"}', "", "unknown key 'models.0.twin.sorce'"),
    ],
)
def test_what_is_no_twin_is_refused_in_one_line(workplace, twin, models, message):
    with pytest.raises(ConfigError) as refusal:
        plan(build_grid(twin, models), workplace)
    assert message in str(refusal.value)


def test_a_twin_and_its_model_the_wrong_way_round(workplace):
    content = build_grid("", "")
    content["models"] = [
        {
            "id": "float",
            "source": "checkpoint:first.safetensors",
            "architecture": "mnist_fast",
            "twin": {
                "source": "checkpoint:second.safetensors",
                "architecture": "mnist_fast",
                "access": "scores",
            },
        }
    ]
    with pytest.raises(ConfigError, match="Turn them round: source is what is shipped") as refusal:
        plan(content, workplace)
    assert "\n" not in str(refusal.value)


def test_a_twin_that_cannot_be_loaded_makes_the_cells_errors(workplace):
    with pytest.raises(rbl.RobustbenchError, match=r"its twin checkpoint:grid\.yaml cannot be used"):
        plan(build_grid(', twin: {source: "checkpoint:grid.yaml", architecture: mnist_fast}'), workplace)


def test_a_defense_stands_before_both(workplace):
    content = build_grid(", twin: first", f"{FLOAT}, ") | {"defenses": ["jpeg-75"]}
    planned = plan(content, workplace)
    (cell,) = [
        cell for cell in planned.cells if cell.subject.id == "second" and cell.record.card == "pgd50-linf-8"
    ]
    assert cell.subject.twin.defense == cell.subject.defense == "jpeg-75"
    assert cell.subject.twin.classifier.inner is not cell.subject.classifier.inner


def test_evaluate_takes_a_twin(workplace):
    first, second = (
        rbl.load_classifier(
            f"checkpoint:{name}.safetensors", architecture="mnist_fast", num_classes=10, access=access
        )
        for name, access in (("first", "gradients"), ("second", "scores"))
    )
    data = rbl.load_dataset("npz:digits.npz", limit=12)
    settings = {"attack": rbl.PGD(steps=3), "norm": "Linf", "eps": "8/255"}
    result = rbl.evaluate(second, data, twin=first, twin_queries=10, **settings)
    rows = result.outcomes
    robust = rows["twin_clean_correct"] & ~rows["twin_broken"]
    assert (result.twin_robust_accuracy.value, result.twin_robust_accuracy.n) == (robust.mean(), 12)
    alone = rbl.evaluate(second, data, **settings | {"attack": "square", "queries": 5})
    assert not alone.twin_robust_accuracy.is_known
    assert any("gradients of checkpoint:first.safetensors" in note for note in result.notes)
    assert any(found.sentence.startswith("Of its twin: ") for found in result.diagnostics)
    bare = rbl.evaluate(second, data, twin=first.module, twin_queries=10, **settings)  # without normalization
    assert bare.twin_robust_accuracy == result.twin_robust_accuracy
    with pytest.raises(ConfigError, match="Module, got str"):
        rbl.evaluate(second, data, twin="zoo:signs-plain", **settings)
    with pytest.raises(ConfigError, match="a surrogate and a twin"):
        rbl.evaluate(second, data, twin=first, surrogate=first, **settings)
    with pytest.raises(ConfigError, match="gives scores only"):
        rbl.evaluate(first, data, twin=second, **settings)
