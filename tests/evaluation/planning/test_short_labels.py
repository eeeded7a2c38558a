"""Labels: short, for people, unique within a run, and without a say in what a cell is."""

from __future__ import annotations

import itertools

import pytest

from robustbench_local.config.cards import find_card, list_cards
from robustbench_local.config.display_names import MAX_DISPLAY_NAME_CHARACTERS
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.execution.progress_listener import ProgressListener
from robustbench_local.evaluation.grid.card_lookup import find_cards_per_target, find_method_cards
from robustbench_local.evaluation.grid.schema import load_grid
from robustbench_local.evaluation.options import Options
from robustbench_local.evaluation.planning.short_labels import (
    MAX_LABEL_CHARACTERS,
    LabelledAttack,
    build_attack_labels,
    build_defense_label,
    build_family_labels,
    build_model_label,
    make_unique,
)
from robustbench_local.run import Run, prepare_run, run_grid
from robustbench_local.store.run_labels import RunLabels
from robustbench_local.store.run_store import RunStore

CLASS_NAMES = ("Yield", "Stop", "2", "x" * 200)


def attacks_of(card: str, overrides=None, find=find_method_cards, **about):
    return [
        LabelledAttack(identifier=variant.name, card=variant, **about)
        for variant in find(card, overrides or {})
    ]


def labels_of(*attacks):
    return list(build_attack_labels(list(itertools.chain(*attacks)), CLASS_NAMES).values())


@pytest.mark.parametrize(
    ("card", "overrides", "label"),
    [
        ("pgd50-linf-8", {}, "PGD-50"),
        ("pgd50-linf-8", {"restarts": 1}, "PGD-50, 1 restart"),
        ("pgd50-linf-8", {"restarts": 10, "loss": "dlr"}, "PGD-50, 10 restarts, loss dlr"),
        ("pgd50-linf-8", {"early_stop": False}, "PGD-50, no early stop"),
        ("pgd50-linf-8", {"targets": ["Stop"]}, "PGD-50, to Stop"),
        ("pgd50-linf-8", {"targets": [0, 1], "sources": [2]}, "PGD-50, to 2 classes, from class 2"),
        ("pgd50-linf-8", {"targets": [3]}, f"PGD-50, to {'x' * 23}\N{HORIZONTAL ELLIPSIS}"),
        ("square-linf-8", {"queries": 1234}, "Square, 1,234 queries"),
        ("pgd", {"norm": "L2", "eps": 0.5, "steps": 10}, "PGD, 10 steps"),
        ("certify-smoothing-l2-0.25", {"n": 200}, "Smoothing certificate, n 200"),
        ("fog-3", {}, "Fog"),
    ],
)
def test_a_label_is_the_title_and_what_the_grid_changes(card, overrides, label):
    assert labels_of(attacks_of(card, overrides)) == [label]


def test_the_budget_is_named_where_it_differs():
    assert labels_of(attacks_of("pgd50-linf-8", {"eps": ["2/255", "8/255"]}), attacks_of("fgsm-linf-8")) == [
        "PGD-50, eps 2/255",
        "PGD-50, eps 8/255",
        "FGSM",
    ]
    assert labels_of(attacks_of("pgd50-linf-8"), attacks_of("pgd50-l2-0.5")) == [
        "PGD-50, Linf eps 8/255",
        "PGD-50, L2 eps 0.5",
    ]
    assert labels_of(attacks_of("fog-3", {"eps": [1, 5]})) == ["Fog, severity 1", "Fog, severity 5"]
    assert labels_of(attacks_of("sticker-3"), attacks_of("sticker-37")) == [
        "Sticker, 3.3% of the sign",
        "Sticker, 37.2% of the sign",
    ]


def test_attacks_at_several_radii_share_a_family():
    attacks = attacks_of("pgd50-linf-8", {"eps": ["2/255", "8/255"], "restarts": 2})
    assert set(build_family_labels(attacks, CLASS_NAMES).values()) == {"PGD-50, 2 restarts"}


def test_each_target_alone_is_told_from_the_whole_goal():
    overrides = {"targets": ["Stop", "Yield"]}
    attacks = attacks_of("pgd50-linf-8", overrides, find_cards_per_target, name="Mine")
    assert labels_of(attacks) == ["Mine, to 2 classes", "Mine, to Stop", "Mine, to Yield"]


def test_what_the_attacker_knows_stands_behind():
    [known] = attacks_of("pgd50-linf-8", {"restarts": 1})
    [naive] = attacks_of("pgd50-linf-8", {"restarts": 1}, suffix="non-adaptive")
    naive = LabelledAttack(identifier="other", card=naive.card, suffix=naive.suffix)
    assert labels_of([known, naive]) == ["PGD-50, 1 restart", "PGD-50, 1 restart (non-adaptive)"]


def test_labels_of_different_attacks_differ_whatever_they_are_called():
    cards = [*list_cards("attack"), *list_cards("certificate")]
    attacks = [LabelledAttack(identifier=card.name, card=card) for card in cards]
    twins = [LabelledAttack(identifier=f"{card.name}!", card=card, name="PGD-50") for card in cards]
    labels = labels_of(attacks, twins)
    assert len(set(labels)) == len(labels) == 2 * len(cards)
    assert all(0 < len(label) <= MAX_LABEL_CHARACTERS + 5 for label in labels)


def test_long_and_hostile_values_are_cut():
    targets = ["a\nb" + "\N{HEBREW LETTER ALEF}" * 500]
    [label] = labels_of(attacks_of("pgd50-linf-8", {"targets": targets}, suffix="non-adaptive"))
    assert len(label) <= MAX_LABEL_CHARACTERS
    assert "\n" not in label
    assert label.endswith("\N{HORIZONTAL ELLIPSIS} (non-adaptive)")
    model = build_model_label("m" * 100, "d" * 100)
    assert len(model) == 2 * MAX_DISPLAY_NAME_CHARACTERS + 3


def test_equal_labels_are_numbered():
    assert make_unique({1: "a", 2: "a", 3: "a #2", 4: "b"}) == {1: "a", 2: "a #2", 3: "a #2 #2", 4: "b"}


def test_a_defense_is_called_by_its_card_and_what_the_grid_changes():
    card = find_card("jpeg-75", kind="defense")
    assert build_defense_label(card) == "jpeg-75"
    assert build_defense_label(card, "JPEG") == "JPEG"


def test_every_shipped_card_of_an_attack_has_a_short_title():
    for card in (*list_cards("attack"), *list_cards("certificate")):
        assert 0 < len(card.title) <= 36, card.name


class CountsCells(ProgressListener):
    def __init__(self):
        self.started_cells = 0

    def on_cell_start(self, cell, done):
        self.started_cells += 1


def write_grid(workplace, model="A model", defense="Bits", attack="One step"):
    content, _ = load_grid(workplace / "grid.yaml")
    grid = content.dump_resolved()
    grid["models"] = [grid["models"][0] | {"name": model}]
    grid["defenses"] = ["none", {"card": "bit-depth-3"} | ({"name": defense} if defense else {})]
    grid["attacks"] = [{"card": "fgsm-linf-8", "name": attack}, {"card": "pgd50-linf-8", "steps": 2}]
    return grid


def test_names_are_labels_and_change_neither_keys_nor_identity(workplace):
    named, _ = prepare_run(write_grid(workplace), out="out", options=Options(device="cpu"))
    plain, _ = prepare_run(write_grid(workplace, None, None, None), out="out", options=Options(device="cpu"))
    assert named.identity == plain.identity
    assert [cell.record for cell in named.cells] == [cell.record for cell in plain.cells]
    assert named.labels.models == {("first", "none"): "A model", ("first", "bit-depth-3"): "A model + Bits"}
    assert set(named.labels.attacks.values()) == {
        "One step",
        "One step (non-adaptive)",
        "PGD-50, 2 steps",
        "PGD-50, 2 steps (non-adaptive)",
    }
    assert set(plain.labels.attacks.values()) >= {"FGSM", "FGSM (non-adaptive)"}


@pytest.mark.slow
def test_a_run_goes_on_under_another_name_and_shows_it(workplace):
    run_grid(write_grid(workplace), out="out", options=Options(device="cpu"))
    counts = CountsCells()
    run_grid(
        write_grid(workplace, attack="Renamed"), out="out", options=Options(device="cpu"), listener=counts
    )
    assert counts.started_cells == 0
    with RunStore.open_readonly(workplace / "out") as store:
        labels = RunLabels.from_metadata(store.read_meta("labels"))
    assert labels.get_attack_label("fgsm-linf-8") == "Renamed"
    assert Run("out").is_complete


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attack": "x" * 61}, "at most 60 characters"),
        ({"attack": " x"}, "spaces around it"),
        ({"attack": ""}, "must not be empty"),
        ({"attack": "a\u202eb"}, "printable"),
        ({"defense": "bell\x07"}, "printable"),
        ({"model": "a\nb"}, "printable"),
    ],
)
def test_a_name_that_no_table_can_show_is_refused(workplace, change, message):
    with pytest.raises(ConfigError, match=message):
        load_grid(write_grid(workplace, **change))


@pytest.mark.parametrize("key", ["attacks", "models", "defenses"])
def test_a_name_is_used_once(workplace, key):
    grid = write_grid(workplace)
    grid["models"] = [grid["models"][0], grid["models"][0] | {"id": "second"}]
    grid[key][0] = {"card": "none", "name": "Bits"} if key == "defenses" else grid[key][0]
    if key == "attacks":
        grid["attacks"][1]["name"] = grid["attacks"][0]["name"]
    if key != "models":
        grid["models"] = grid["models"][:1]
    with pytest.raises(ConfigError, match="is used twice"):
        load_grid(grid)
