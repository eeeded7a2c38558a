"""``rbl show``: a page an entry, whose example a grid takes."""

from __future__ import annotations

import json

import pytest
import yaml

from robustbench_local.cli.entry_page import describe_entry, format_page
from robustbench_local.cli.listing import list_other_names
from robustbench_local.cli.main import run_command
from robustbench_local.config.cards import find_card, list_card_names
from robustbench_local.config.strict_yaml import validate
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.grid.card_lookup import find_method_cards
from robustbench_local.evaluation.grid.schema import Grid

USUAL = {
    "data": {"source": "signs"},
    "models": [{"id": "signs-plain", "source": "zoo:signs-plain"}],
    "attacks": ["fgsm-linf-8"],
}


@pytest.fixture
def rbl(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments):
        code = run_command([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize("name", [*list_card_names(), *list_other_names()])
def test_every_entry_has_a_page_whose_example_is_a_grid(name):
    page = describe_entry(name)
    grid = validate(Grid, USUAL | yaml.safe_load(page.example), where="example", error=ConfigError)
    for entry in grid.attacks:
        assert find_method_cards(entry.card, entry.overrides)
    lines = format_page(page, 80)
    assert max(len(line) for line in lines if "{" not in line) <= 80
    assert lines[0].startswith(f"{name}: ")
    assert json.loads(json.dumps(page.to_json()))["name"] == name


def test_a_page_has_all_that_the_card_says(rbl):
    code, out, _ = rbl("show", "stop-to-speed-limit-linf-8")
    card, text = find_card("stop-to-speed-limit-linf-8"), " ".join(out.split())
    assert code == 0
    assert " ".join(card.description.split()) in text
    assert card.source in text
    assert "Linf 8/255; in gates linf-8" in text
    assert "only images of Stop" in text
    assert all(str(target) in text for target in card.threat.targets)
    for key, value in card.parameters.items():
        assert f"{key}: {value}" in text
    assert "kinds white-box, targeted" in text
    assert "eps: 4/255" in text


def test_a_page_as_json(rbl):
    code, out, _ = rbl("show", "jpeg-75", "--json")
    page = json.loads(out)
    assert code == 0
    assert (page["method"], page["parameters"], page["kinds"]) == ("jpeg", {"quality": 75}, "wrapper")
    assert yaml.safe_load(page["example"]) == {"defenses": ["none", "jpeg-75"]}


def test_a_shipped_model_says_what_was_measured(rbl):
    code, out, _ = rbl("show", "zoo:signs-plain")
    assert code == 0
    assert "clean 99.9 % (n = 1,000)" in " ".join(out.split())
    assert rbl("show", "signs-plain")[1] == out


@pytest.mark.parametrize(
    ("name", "meant"),
    [("pgd50-linf8", "pgd50-linf-8"), ("zoo:sign-plain", "zoo:signs-plain"), ("Mnist_Fast", "mnist_fast")],
)
def test_an_unknown_name_is_refused_with_what_was_meant(rbl, name, meant):
    code, out, err = rbl("show", name)
    assert (code, out) == (2, "")
    assert f"Did you mean {meant}?" in err


def test_cards_of_the_user_are_shown_too(rbl, tmp_path):
    text = "schema: 1\nkind: attack\nname: mine\nversion: 3\ndescription: My own.\nsource: me\nmethod: pgd\n"
    (tmp_path / "mine.yaml").write_text(text + "threat: {norm: L2, eps: 0.5}\n")
    code, out, _ = rbl("show", "mine", "--cards", tmp_path)
    assert code == 0
    assert "mine: attack, version 3" in out
