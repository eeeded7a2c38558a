"""``transfer_from`` in a grid: which cells there are, what they record, and what is refused."""

from __future__ import annotations

import pytest

import robustbench_local as rbl
from robustbench_local.config.strict_yaml import parse_yaml
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.grid.schema import load_grid
from robustbench_local.store.run_store import RunStore

ATTACKS = """
attacks:
  - mi-fgsm-linf-16
  - {card: mi-fgsm-linf-16, transfer_from: first}
  - {card: mi-fgsm-linf-16, transfer_from: second, limit: 20}
  - {card: pgd20-linf-8, steps: 3, transfer_from: first}
gates: []
"""


def grid(workplace, changes=ATTACKS):
    read = {"where": "test", "error": ConfigError}
    text = (workplace / "grid.yaml").read_text(encoding="utf-8")
    return parse_yaml(text, **read) | parse_yaml(changes, **read)


@pytest.mark.slow
def test_candidates_cross_from_each_surrogate_to_the_other_models(workplace):
    run = rbl.run_grid(grid(workplace), out="runs/transfer", options=rbl.Options(batch_size=16))
    assert run.is_complete
    with RunStore.open_readonly(run.directory) as store:
        cells = {(cell.model, cell.attack): cell for cell in store.read_cells()}
        counts = {key: len(store.read_outcomes(cell.key)) for key, cell in cells.items()}
        events = list(store.read_events())
    first, second = (
        [one.status for one in cells.values() if one.model == name] for name in ("first", "second")
    )
    assert first == ["done", "skipped", "done", "skipped"]
    assert second == ["done", "done", "skipped", "done"]
    own = cells["first", "mi-fgsm-linf-16"]
    assert (own.knowledge, own.surrogate, own.measure) == ("white-box", None, "ball")
    crossed = cells["second", "mi-fgsm-linf-16[from=first]"]
    assert (crossed.knowledge, crossed.surrogate, crossed.card) == ("transfer", "first", "mi-fgsm-linf-16")
    assert crossed.note.startswith("crafted on first without access to this model")
    assert crossed.identity["surrogate"] == own.identity["model"] != crossed.identity["model"]
    assert "surrogate" not in own.identity
    assert counts["second", "mi-fgsm-linf-16[from=first]"] == 40
    assert counts["first", "mi-fgsm-linf-16[from=second]"] == 20
    left_out = cells["first", "pgd20-linf-8[steps=3][from=first]"]
    assert "crafted on this model itself" in left_out.error
    assert not any("very model" in event.message for event in events)
    white, borrowed = (
        run.outcomes.query("model == 'second' and attack == @name")["broken"].sum()
        for name in ("mi-fgsm-linf-16", "mi-fgsm-linf-16[from=first]")
    )
    assert borrowed <= white
    resolved, _ = load_grid(workplace / "runs/transfer/run.yaml")
    assert [entry.transfer_from for entry in resolved.attacks] == [None, "first", "second", "first"]


def test_the_same_weights_under_another_name_are_no_surrogate(workplace):
    twin = grid(workplace, "attacks: [{card: fgsm-linf-8, transfer_from: first}]\ngates: []")
    twin["models"][1] = twin["models"][0] | {"id": "twin"}
    run = rbl.run_grid(twin, out="runs/twin")
    assert [cell["status"] for cell in run.results["cells"]] == ["skipped", "skipped"]


@pytest.mark.slow
def test_a_surrogate_must_give_what_the_attack_needs(workplace):
    closed = grid(workplace)
    closed["models"][0]["access"] = "scores"
    with pytest.raises(ConfigError, match="MIFGSM needs gradients, the model 'first' gives scores only"):
        rbl.run_grid(closed | {"attacks": closed["attacks"][1:2]}, out="runs/closed")
    closed["models"] = closed["models"][::-1]
    opened = rbl.run_grid(closed | {"attacks": closed["attacks"][2:3]}, out="runs/open")
    done = {cell["model"]: cell["status"] for cell in opened.results["cells"]}
    assert done == {"first": "done", "second": "skipped"}


def test_one_entry_is_not_listed_twice_but_two_surrogates_are_two_columns(workplace):
    entry = "{card: fgsm-linf-8, transfer_from: first}"
    with pytest.raises(ConfigError, match=r"'fgsm-linf-8\[from=first\]' is listed twice"):
        rbl.run_grid(grid(workplace, f"attacks: [{entry}, {entry}]\ngates: []"), out="runs/twice")
