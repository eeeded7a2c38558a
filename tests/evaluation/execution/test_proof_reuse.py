"""Images that a certificate has proven are not attacked: the same verdicts for less work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from robustbench_local.attacks.adapters.libraries import ReferenceAutoAttack
from robustbench_local.evaluation.execution.executor import execute_plan
from robustbench_local.evaluation.execution.progress_listener import ProgressListener
from robustbench_local.evaluation.execution.proof_reuse import find_proven_images, sort_certificates_first
from robustbench_local.evaluation.grid.schema import load_grid
from robustbench_local.evaluation.options import Options
from robustbench_local.evaluation.planning.planner import make_plan
from robustbench_local.run import Run, run_grid
from robustbench_local.store import RunStore
from robustbench_local.threats.threat_model import ThreatModel

pytestmark = pytest.mark.slow

EPS, TINY, LARGER = "1/8500", "1/17000", "1/4250"  # 0.03, 0.015 and 0.06 of 255
GRID = {
    "schema": 1,
    "name": "sparing",
    "data": {"source": "npz:digits.npz"},
    "models": [{"id": "first", "source": "checkpoint:first.safetensors", "architecture": "mnist_fast"}],
    "attacks": [
        {"card": "pgd50-linf-8", "eps": [TINY, EPS, LARGER], "steps": 3, "restarts": 1},
        {"card": "fgsm-l2-0.5", "eps": 0.001},
        {"card": "certify-ibp-linf-1", "eps": EPS},
    ],
}


def _outcomes(run: Run, attack: str) -> dict[str, dict]:
    frame = run.outcomes
    rows = frame[frame["attack"] == attack]
    return {row["image"]: row for row in rows.to_dict("records")}


@pytest.fixture(scope="module")
def both(_made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """The same grid without and with skipping."""
    folder = tmp_path_factory.mktemp("sparing")
    model = {**GRID["models"][0], "source": f"checkpoint:{_made / 'first.safetensors'}"}
    grid = {**GRID, "data": {"source": f"npz:{_made / 'digits.npz'}"}, "models": [model]}
    options = Options(batch_size=20, workers=1)
    spared = run_grid({**grid, "skip_verified": True}, out=folder / "with", options=options)
    return run_grid(grid, out=folder / "without", options=options), spared


def test_proven_images_have_the_same_verdicts_and_cost_one_pass(both: tuple[Run, Run]):
    without, spared = both
    proof = {image for image, row in _outcomes(spared, "certify-ibp-linf-0.03").items() if row["certified"]}
    assert 5 < len(proof) < 40
    for attack in ("pgd50-linf-0.015[steps=3,restarts=1]", "pgd50-linf-0.03[steps=3,restarts=1]"):
        before, after = _outcomes(without, attack), _outcomes(spared, attack)
        assert len(after) == 40
        for image, row in after.items():
            for key in ("clean_correct", "broken", "adversarial_prediction"):
                assert row[key] == before[image][key]
            if image in proof:
                assert row["forward_passes"] == 1
                assert row["backward_passes"] == 0
                assert before[image]["backward_passes"] > 0
            else:
                assert row["forward_passes"] == before[image]["forward_passes"]


def test_a_larger_ball_and_another_norm_are_attacked_all_the_same(
    both: tuple[Run, Run],
):
    without, spared = both
    for attack in ("pgd50-linf-0.06[steps=3,restarts=1]", "fgsm-l2-0.001"):
        before, after = _outcomes(without, attack), _outcomes(spared, attack)
        assert [row["forward_passes"] for row in after.values()] == [
            row["forward_passes"] for row in before.values()
        ]


def test_the_report_says_how_many_were_not_attacked(both: tuple[Run, Run]):
    without, spared = both
    proven = sum(row["certified"] == 1 for row in _outcomes(spared, "certify-ibp-linf-0.03").values())
    told = [
        one["text"]
        for one in spared.results["findings"]
        if one["text"].startswith("Certified and therefore not attacked")
    ]
    assert len(told) == 1
    assert f"{proven} of 40" in told[0]
    assert not any(
        one["text"].startswith("Certified and therefore not attacked") for one in without.results["findings"]
    )
    counts = {cell["attack"]: cell["counts"].get("proven") for cell in spared.results["cells"]}
    assert counts["pgd50-linf-0.03[steps=3,restarts=1]"] == proven
    assert counts["pgd50-linf-0.06[steps=3,restarts=1]"] == 0
    keys = ("robust_accuracy", "clean_accuracy", "attack_success")
    for one, other in zip(without.results["worst_case"], spared.results["worst_case"], strict=True):
        assert [one[key] for key in keys] == [other[key] for key in keys]


def test_certificates_run_first_and_keep_their_place_in_the_report(workplace: Path):
    grid, _ = load_grid({**GRID, "data": {**GRID["data"], "limit": 4}, "skip_verified": True})
    plan = make_plan(grid, Options(batch_size=4, workers=1), base_folder=workplace)
    order: list[str] = []

    class Recorder(ProgressListener):
        def on_cell_start(self, cell, tally) -> None:
            order.append(cell.record.attack)

    with RunStore.create_or_open(
        Path("run"), resolved_yaml=plan.resolved_yaml, identity=plan.identity
    ) as store:
        execute_plan(plan, store, Recorder())
        assert [record.attack for record in store.read_cells()][-1] == "certify-ibp-linf-0.03"
    assert order[0] == "certify-ibp-linf-0.03"
    assert [cell.record.attack for cell in plan.cells][-1] == order[0]


def test_only_certain_proofs_about_this_very_model_spare_an_attack(workplace: Path):
    grid, _ = load_grid({**GRID, "skip_verified": True})
    plan = make_plan(grid, Options(batch_size=20, workers=1), base_folder=workplace)
    proof = sort_certificates_first(plan.cells)[0]
    attack = plan.cells[1]
    with RunStore.create_or_open(
        Path("run"), resolved_yaml=plan.resolved_yaml, identity=plan.identity
    ) as store:
        execute_plan(plan, store, ProgressListener())
        assert find_proven_images(attack, plan.cells, store)
        other = replace(attack.subject)
        for changed in (
            [replace(proof, record=replace(proof.record, alpha=0.001))],
            [replace(proof, record=replace(proof.record, concerns="smoothed"))],
            [replace(proof, threat=ThreatModel(norm="Linf", eps=TINY))],
            [replace(proof, threat=ThreatModel(norm="L2", eps=5.0))],
            [replace(proof, subject=other)],
            [],
        ):
            assert find_proven_images(attack, changed, store) == frozenset()
        in_groups = replace(attack, method=ReferenceAutoAttack())
        assert not in_groups.method.per_image
        assert find_proven_images(in_groups, plan.cells, store) == frozenset()
        assert find_proven_images(proof, plan.cells, store) == frozenset()


def test_skipping_without_a_certificate_is_pointed_out(workplace: Path):
    grid = {**GRID, "attacks": GRID["attacks"][:1], "skip_verified": True}
    plan = make_plan(load_grid(grid)[0], Options(), base_folder=workplace)
    assert any("skip_verified has no effect" in line for line in plan.warnings)
    assert plan.identity["skip_verified"] == "True"
    assert yaml.safe_load(plan.resolved_yaml)["skip_verified"] is True
    assert json.dumps(plan.description["grid"]["skip_verified"]) == "true"
