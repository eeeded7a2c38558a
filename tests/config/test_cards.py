"""Cards: found, checked, versioned, overridden."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from robustbench_local.attacks import expand_attack_card
from robustbench_local.config import cards as catalogue
from robustbench_local.config.cards import Card, CardThreat, find_card, list_cards, load_card
from robustbench_local.errors import CardError, ConfigError

GOOD = """\
schema: 1
kind: attack
name: mine
version: 2
description: An attack of my own.
source: "me"
method: pgd
parameters: {steps: 7}
threat: {norm: linf, eps: 8/255, targets: [Yield, 3]}
"""


@pytest.fixture
def write(tmp_path: Path):
    def _write(text: str = GOOD, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return _write


def test_a_card_says_what_is_done(write):
    card = load_card(write())
    assert (card.name, card.base_name, card.kind, card.version, card.method) == (
        "mine",
        "mine",
        "attack",
        2,
        "pgd",
    )
    assert card.parameters == {"steps": 7}
    assert card.threat == CardThreat(norm="Linf", eps=8 / 255, targets=("Yield", 3))
    assert card.threat.eps == 8 / 255
    model = card.threat.build_threat_model(targets=(5, 3))
    assert (model.norm, model.eps, model.targets, model.region) == ("Linf", 8 / 255, (3, 5), "image")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("threat:", "thread:", r"unknown key 'thread'\. Did you mean threat\?"),
        ("eps:", "epss:", r"unknown key 'threat\.epss'\. Did you mean eps\?"),
        ("norm: linf", "norm: L7", r"threat\.norm: unknown norm 'L7'"),
        ("8/255", "-1", r"threat\.eps: .*at least 0"),
        ("8/255", "8 of 255", r"threat\.eps: cannot read eps '8 of 255'"),
        ("schema: 1", "schema: 2", r"schema"),
        ("kind: attack", "kind: atack", r"kind"),
        ("version: 2", "version: 0", r"version"),
        ("version: 2", "version: '2'", r"version"),
        ("name: mine", "name: yours", r"the card is called 'yours'\. Give the file the card's name"),
        ("description: An attack of my own.\n", "", r"description"),
        ("{steps: 7}", "[steps]", r"parameters"),
        ("threat: {norm: linf, eps: 8/255, targets: [Yield, 3]}\n", "", r"needs a threat model"),
        (GOOD, "- a list", r"mapping"),
        (GOOD, "!!python/object/apply:os.system [true]", r"YAML"),
        (GOOD, "a: [1", r"YAML"),
    ],
)
def test_a_malformed_card_is_answered_in_one_line_with_the_file(write, old: str, new: str, message: str):
    path = write(GOOD.replace(old, new))
    with pytest.raises(CardError, match=message) as caught:
        load_card(path)
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_no_file_name_is_refused(write):
    path = write(GOOD.replace("name: mine", 'name: "-mine"'), "-mine.yaml")
    with pytest.raises(CardError, match="the card is called '-mine'"):
        load_card(path)


def test_a_missing_or_huge_file_is_refused(write, tmp_path: Path):
    with pytest.raises(CardError, match="cannot be read: No such file"):
        load_card(tmp_path / "none.yaml")
    with pytest.raises(CardError, match="limit"):
        load_card(write(GOOD + "#" * (1 << 20)))


def test_the_digest_is_of_what_is_done_not_of_its_wording(write):
    first = load_card(write()).digest
    assert load_card(write(GOOD.replace("An attack of my own.", "Other words."))).digest == first
    for old, new in (
        ("steps: 7", "steps: 8"),
        ("8/255", "4/255"),
        ("version: 2", "version: 3"),
        ("Yield, ", ""),
    ):
        assert load_card(write(GOOD.replace(old, new))).digest != first
    assert len(first) == 64


def test_cards_are_found_by_name_in_the_users_folders_too(write, tmp_path: Path):
    write()
    assert find_card("mine", extra=[tmp_path]).path == tmp_path / "mine.yaml"
    assert find_card("fgsm-linf-8", kind="attack", extra=[tmp_path]).method == "fgsm"
    assert [card.name for card in list_cards("attack", [tmp_path])] == sorted(
        ["mine", *(card.name for card in list_cards("attack"))]
    )


def test_wrong_names_are_answered_with_right_ones(tmp_path: Path):
    with pytest.raises(CardError, match=r"there is no card 'pgd50-linf8'\. Did you mean pgd50-linf-8\?"):
        find_card("pgd50-linf8")
    with pytest.raises(CardError, match="no such folder of cards"):
        find_card("pgd50-linf-8", extra=[tmp_path / "nowhere"])


def test_a_name_is_used_once(write, tmp_path: Path):
    write(GOOD.replace("name: mine", "name: fgsm-linf-8"), "fgsm-linf-8.yaml")
    for call in (
        lambda: find_card("fgsm-linf-8", extra=[tmp_path]),
        lambda: list_cards("attack", [tmp_path]),
    ):
        with pytest.raises(CardError, match="two cards are called 'fgsm-linf-8'") as caught:
            call()
        assert str(tmp_path / "fgsm-linf-8.yaml") in str(caught.value)
        assert str(Path("attacks") / "fgsm-linf-8.yaml") in str(caught.value)


def test_the_same_folder_named_twice_is_no_clash(write, tmp_path: Path):
    write()
    assert find_card("mine", extra=[tmp_path, tmp_path]).name == "mine"


def test_a_card_of_the_other_kind_is_refused(write, tmp_path: Path):
    write(GOOD.replace("kind: attack", "kind: defense"))
    with pytest.raises(CardError, match="is of kind defense, not attack"):
        find_card("mine", kind="attack", extra=[tmp_path])
    assert "mine" in [card.name for card in list_cards("defense", [tmp_path])]
    assert "mine" not in [card.name for card in list_cards("attack", [tmp_path])]


def test_the_packaged_copy_is_read_where_there_is_one(monkeypatch, tmp_path: Path, write):
    package = tmp_path / "robustbench_local"
    (package / "_cards" / "attacks").mkdir(parents=True)
    (package / "_cards" / "attacks" / "mine.yaml").write_text(GOOD, encoding="utf-8")
    monkeypatch.setattr(catalogue, "__file__", str(package / "config" / "cards.py"))
    assert [card.name for card in list_cards("attack")] == ["mine"]


class TestExpand:
    card = find_card("pgd50-linf-8")

    def names(self, card: Card, **overrides: object) -> list[str]:
        return [variant.name for variant in expand_attack_card(card, overrides)]

    def test_nothing_overridden_changes_nothing(self):
        assert expand_attack_card(self.card, {}) == [self.card]

    def test_a_list_of_radii_gives_a_card_each_named_after_it(self):
        cards = expand_attack_card(self.card, {"eps": ["2/255", 4 / 255, "8/255"]})
        assert [card.name for card in cards] == ["pgd50-linf-2", "pgd50-linf-4", "pgd50-linf-8"]
        assert [card.threat.eps for card in cards] == [2 / 255, 4 / 255, 8 / 255]
        assert {card.base_name for card in cards} == {"pgd50-linf-8"}
        assert len({card.digest for card in cards}) == 3

    def test_other_overrides_are_told_in_the_name(self):
        assert self.names(self.card, steps=20) == ["pgd50-linf-8[steps=20]"]
        assert self.names(self.card, steps=50) == ["pgd50-linf-8"]
        assert self.names(self.card, norm="L2", eps=0.5) == ["pgd50-l2-0.5"]
        assert self.names(self.card, targets=["Yield", 3], loss="margin") == [
            "pgd50-linf-8[targets=Yield+3,loss=margin]"
        ]

    def test_a_name_without_a_radius_gets_one(self):
        mine = replace(self.card, name="mine")
        assert self.names(mine, eps=["2/255", "8/255"]) == ["mine@linf-2", "mine"]

    def test_parameters_are_merged(self):
        (card,) = expand_attack_card(self.card, {"steps": 20, "step_size": "1/255"})
        assert card.parameters == {"steps": 20, "restarts": 5, "step_size": "1/255"}

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"epss": 1}, r"card 'pgd50-linf-8' has no key 'epss'\. Did you mean eps\?"),
            ({"step": 1}, r"has no key 'step'\. Did you mean steps\?"),
            ({"eps": "much"}, r"card 'pgd50-linf-8': eps: cannot read eps 'much'"),
            ({"eps": [-1]}, r"eps: .*at least 0"),
            ({"eps": []}, r"the list of eps is empty"),
            ({"eps": ["8/255", 8 / 255]}, r"radius of pgd50-linf-8 is listed twice"),
            ({"norm": "L7"}, r"norm: unknown norm 'L7'"),
            ({"targets": "Stop"}, r"targets"),
            ({"steps": "many"}, r"attack 'pgd', steps"),
        ],
    )
    def test_mistakes_are_answered_in_one_line(self, overrides: dict[str, object], message: str):
        with pytest.raises(ConfigError, match=message) as caught:
            expand_attack_card(self.card, overrides)
        assert "\n" not in str(caught.value)

    def test_a_card_without_a_threat_model_takes_parameters_only(self, write):
        text = GOOD.replace("kind: attack", "kind: defense").split("threat:")[0]
        card = load_card(write(text))
        (variant,) = catalogue.expand_card(card, {"steps": 3}, parameters=["steps"])
        assert variant.parameters == {"steps": 3}
        assert variant.threat is None
