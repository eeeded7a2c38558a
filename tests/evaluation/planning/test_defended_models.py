"""Defenses in a grid: which subjects and cells there are, what they record, and what they are worth."""

from __future__ import annotations

import shutil

import pytest
import torch
from test_attack_job import outcomes, task, verdicts

import robustbench_local as rbl
from robustbench_local.attacks.core.eight_bit_search import estimate_finishing_cost
from robustbench_local.attacks.core.expectation import count_confirmation_passes
from robustbench_local.attacks.pgd import PGD
from robustbench_local.attacks.square.square import Square
from robustbench_local.config.strict_yaml import parse_yaml
from robustbench_local.defenses.wrappers.wrapper_registry import build_wrapper
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.grid.schema import load_grid
from robustbench_local.run import prepare_run
from robustbench_local.store.records import count_outcomes
from robustbench_local.store.run_store import RunStore
from robustbench_local.threats.threat_model import ThreatModel

pytestmark = pytest.mark.slow

BASE = """
schema: 1
name: defended
models:
  - {id: first, source: "checkpoint:first.safetensors", architecture: mnist_fast}
  - {id: second, source: "checkpoint:second.safetensors", architecture: mnist_fast, defenses: [none]}
"""
DEFENSES = """
data: {source: "npz:digits.npz", limit: 16}
defenses: [none, {card: bit-depth-3, bits: 1}, noise-0.1]
attacks: [{card: pgd20-linf-8, steps: 2}, {card: square-linf-8, queries: 20}]
gates: []
"""


def grid(workplace, changes=DEFENSES):
    read = {"where": "test", "error": ConfigError}
    text = (workplace / "grid.yaml").read_text(encoding="utf-8")
    return parse_yaml(text, **read) | parse_yaml(changes, **read)


@pytest.fixture(scope="module")
def run(_made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("defended")
    shutil.copytree(_made, folder, dirs_exist_ok=True)
    (folder / "grid.yaml").write_text(BASE + DEFENSES, encoding="utf-8")
    return rbl.run_grid(folder / "grid.yaml", out=folder / "run", options=rbl.Options(batch_size=8))


def test_a_card_turns_a_model_into_another_subject(run):
    assert run.is_complete
    with RunStore.open_readonly(run.directory) as store:
        cells, models = store.read_cells(), store.read_meta("models")
        identity = store.read_identity()
    assert [(cell.model, cell.defense, cell.attack, cell.knowledge) for cell in cells] == [
        ("first", "none", "pgd20-linf-8[steps=2]", "white-box"),
        ("first", "none", "square-linf-8[queries=20]", "scores"),
        ("first", "bit-depth-3[bits=1]", "pgd20-linf-8[steps=2]", "white-box"),
        ("first", "bit-depth-3[bits=1]", "pgd20-linf-8[steps=2][naive]", "naive"),
        ("first", "bit-depth-3[bits=1]", "square-linf-8[queries=20]", "scores"),
        ("first", "noise-0.1", "pgd20-linf-8[steps=2]", "white-box"),
        ("first", "noise-0.1", "pgd20-linf-8[steps=2][naive]", "naive"),
        ("first", "noise-0.1", "square-linf-8[queries=20]", "scores"),
        ("second", "none", "pgd20-linf-8[steps=2]", "white-box"),
        ("second", "none", "square-linf-8[queries=20]", "scores"),
    ]
    assert len({cell.key for cell in cells}) == 10
    naive, own = cells[3], cells[0]
    assert (naive.surrogate, naive.card) == (None, "pgd20-linf-8")
    # a first success would say little about the defended model
    assert (naive.parameters["early_stop"], own.parameters["early_stop"]) == (False, True)
    assert naive.identity["surrogate"] == own.identity["model"] != naive.identity["model"]
    assert naive.note.startswith("crafted on the model without its defense")
    assert [(about["id"], about["defense"]) for about in models] == [
        ("first", "none"), ("first", "bit-depth-3[bits=1]"), ("first", "noise-0.1"), ("second", "none"),
    ]  # fmt: skip
    assert models[1]["provenance"]["defense"]["bits"] == 1
    assert models[1]["wrapper"] == {"randomness": False, "surrogate": "bpda"}
    assert any("draws random numbers" in note for note in models[2]["notes"])
    digests = {about["digest"] for about in models}
    assert len(digests) == 4
    assert identity["digest of model first + noise-0.1"] in digests


def test_passes_are_those_of_every_draw(run):
    with RunStore.open_readonly(run.directory) as store:
        cells = {(one.defense, one.attack): store.read_outcomes(one.key) for one in store.read_cells()}
    for row in cells["noise-0.1", "pgd20-linf-8[steps=2]"]:
        if row.clean_correct and not row.broken:
            fixed = row.forward_passes - (100 + 3 * 20 + 100)  # the attack on one draw, and its verification
            assert (fixed, row.backward_passes) == (3 + (3 if row.broken_fixed_draw else 2), 2 * 21)
    for row in cells["noise-0.1", "pgd20-linf-8[steps=2][naive]"]:
        if row.clean_correct and not row.broken:
            assert row.forward_passes <= 100 + 3 + 100
            assert row.backward_passes <= 2
    clean = [[row.clean_correct for row in rows] for (name, _), rows in cells.items() if name == "noise-0.1"]
    assert clean[0] == clean[1] == clean[2]


def test_the_same_grid_again_is_complete_and_the_resolved_one_means_the_same(run):
    before, file = run.outcomes, run.directory.parent / "grid.yaml"
    again = rbl.run_grid(file, out=run.directory, options=rbl.Options(batch_size=3))
    assert again.outcomes.equals(before)
    resolved, _ = load_grid(run.directory / "run.yaml")
    written = [entry.dump_entry() for entry in resolved.defenses]
    assert written == ["none", {"card": "bit-depth-3", "bits": 1}, "noise-0.1"]
    assert [entry.dump_entry() for entry in resolved.models[1].defenses] == ["none"]
    other = file.with_name("other.yaml")
    other.write_text(file.read_text("utf-8").replace("noise-0.1", "jpeg-75"), encoding="utf-8")
    with pytest.raises(ConfigError, match="defenses"):
        rbl.run_grid(other, out=run.directory)


def test_the_plan_counts_every_draw(workplace):
    plan, _ = prepare_run(grid(workplace), out="runs/plan")
    cells = {(cell.record.model, cell.record.defense, cell.record.attack): cell for cell in plan.cells}
    pgd = "pgd20-linf-8[steps=2]"
    extra = estimate_finishing_cost(
        "gradients"
    )  # twice: in 8 bits, and for the margin; then two more readings
    forward, backward = 3 + 2 * extra[0], 2 + 2 * extra[1]
    assert cells["first", "none", pgd].max_passes == (16 * (forward + 5), 16 * backward)
    assert cells["first", "noise-0.1", pgd].max_passes == (
        16 * (21 * forward + 503),
        16 * 21 * backward,
    )
    assert cells["first", "noise-0.1", f"{pgd}[naive]"].max_passes == (16 * (forward + 500), 16 * backward)


def test_the_plan_does_not_average_over_draws_twice(workplace):
    wanted = grid(workplace)
    wanted["models"], wanted["attacks"] = wanted["models"][:1], ["autoattack-rand-linf-8"]
    plan, _ = prepare_run(wanted, out="runs/plan")
    cells = {(cell.record.model, cell.record.defense): cell for cell in plan.cells}
    extra = estimate_finishing_cost("gradients")
    looks, steps = 2 * (101 + extra[0]), 2 * (100 + extra[1])
    judging = 2 * count_confirmation_passes(20)  # fresh draws confirm a success, where no wrapper averages
    assert cells["first", "none"].max_passes == (16 * (looks * 20 + judging + 5), 16 * steps * 20)
    assert cells["first", "noise-0.1"].max_passes == (
        16 * (looks * 21 + 503),
        16 * steps * 21,
    )


def test_models_without_gradients_and_transfers_have_no_naive_cells(workplace):
    wanted = grid(workplace, DEFENSES + "\nmodels: []")
    wanted["attacks"] = [
        {"card": "pgd20-linf-8", "steps": 2, "transfer_from": "first"},
        {"card": "square-linf-8", "queries": 20},
    ]
    wanted["models"] = grid(workplace)["models"]
    wanted["attacks"].append("autoattack-rand-linf-8")  # who averages over draws is not naive about them
    plan, _ = prepare_run(wanted, out="runs/plan")
    assert not any(cell.record.knowledge == "naive" for cell in plan.cells)
    transfers = [cell for cell in plan.cells if cell.record.knowledge == "transfer"]
    assert all((cell.skip_reason is not None) == (cell.record.model == "first") for cell in transfers)
    wanted["attacks"] = ["fgsm-linf-8", "square-linf-8"]
    for model in wanted["models"]:
        model["access"] = "scores"
    plan, _ = prepare_run(wanted, out="runs/plan")
    assert not any(cell.record.knowledge == "naive" for cell in plan.cells)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ("defenses: [none, {card: none, bits: 1}]", "nothing to change"),
        ("defenses: [jpeg-75, jpeg-75]", "listed twice"),
        ("defenses: [{card: jpeg-75, eps: 8/255}]", "eps"),
        ("defenses: [{card: jpeg-75, quality: 101}]", "1 to 100"),
        ("defenses: [pgd50-linf-8]", "pgd50-linf-8"),
        ("defenses: []", "defenses"),
    ],
)
def test_wrong_defenses_are_refused_before_anything_runs(workplace, changes, words):
    with pytest.raises(rbl.RobustbenchError, match=words):
        rbl.run_grid(grid(workplace, changes), out="runs/wrong")


def test_a_card_of_ones_own_is_found_beside_the_grid_file(workplace):
    (workplace / "cards").mkdir()
    (workplace / "cards" / "mine-2.yaml").write_text(
        "{schema: 1, kind: defense, name: mine-2, version: 1, description: Mine., source: me, "
        "method: bit-depth, parameters: {bits: 2}}"
    )
    text = (workplace / "grid.yaml").read_text(encoding="utf-8") + "defenses: [mine-2]\n"
    (workplace / "grid.yaml").write_text(text, encoding="utf-8")
    plan, _ = prepare_run("grid.yaml", out="runs/plan")
    assert {cell.record.defense for cell in plan.cells} == {"mine-2"}


@pytest.mark.parametrize(
    ("name", "changes", "attack", "eps"),
    [
        ("noise", {"sigma": 0.05}, PGD(steps=3, restarts=2), 0.03),
        ("resize-pad", {"smallest": 0.7}, Square(queries=10), 0.1),
    ],
)
def test_verdicts_on_a_random_defense_depend_on_nothing_but_the_image(
    linear, data, name, changes, attack, eps
):
    """Trust invariants V8 and V9: neither batch size, order nor company changes an outcome."""
    wrapper = build_wrapper(name, changes)
    chosen, threat = data.select_images(torch.arange(18)), ThreatModel(norm="Linf", eps=eps)
    reference = outcomes(task(wrapper.wrap(linear), chosen, attack, threat), batch_size=8)
    assert 2 <= count_outcomes(reference).broken < count_outcomes(reference).clean_correct
    rows = outcomes(task(wrapper.wrap(linear), chosen, attack, threat), batch_size=5)
    assert verdicts(rows) == verdicts(reference)
    order = torch.randperm(18, generator=torch.Generator().manual_seed(0))[:9]
    some = verdicts(outcomes(task(wrapper.wrap(linear), chosen.select_images(order), attack, threat)))
    assert some == {image: verdicts(reference)[image] for image in some}
