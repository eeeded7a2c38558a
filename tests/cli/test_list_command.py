"""``rbl list``: a line an entry, filters, a search."""

from __future__ import annotations

import json

import pytest
from rich.cells import cell_len

from robustbench_local.cli.list_command import format_lines
from robustbench_local.cli.listing import LISTS, ListRow, filter_rows, list_rows
from robustbench_local.cli.main import run_command
from robustbench_local.config.cards import list_cards
from robustbench_local.errors import ConfigError


@pytest.fixture
def rbl(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments):
        code = run_command([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def _list_names(rbl, *arguments):
    code, out, err = rbl("list", *arguments, "--json")
    assert (code, err) == (0, "")
    return [row["name"] for row in json.loads(out)]


@pytest.mark.parametrize("kind", LISTS)
def test_every_entry_is_one_line_of_80_columns_that_begins_with_its_name(rbl, kind):
    names = _list_names(rbl, kind)
    code, out, _ = rbl("list", kind)
    lines = out.splitlines()
    assert code == 0
    assert [line.split("  ")[0] for line in lines] == names
    assert max(map(cell_len, lines)) <= 80
    assert all(len(line.split("  ")) >= 2 for line in lines), "each says something beside its name"


@pytest.mark.parametrize(
    ("kind", "card_kind"), [("attacks", "attack"), ("certificates", "certificate"), ("defenses", "defense")]
)
def test_lists_of_cards_are_whole(rbl, kind, card_kind):
    assert _list_names(rbl, kind) == [card.name for card in list_cards(card_kind)]


def test_a_norm_a_threat_model_and_a_corruption_are_threats(rbl):
    assert set(_list_names(rbl, "attacks", "--threat", "l1")) == {
        "adaptive-l1-12",
        "autoattack-l1-12",
        "ead-l1-30",
        "fmn-l1-30",
        "pdpgd-l1-30",
    }
    assert "pgd50-linf-4" in _list_names(rbl, "attacks", "--threat", "Linf")
    assert "pgd50-linf-4" not in _list_names(rbl, "attacks", "--threat", "linf-8")
    assert _list_names(rbl, "attacks", "--threat", "fog") == ["fog-3"]
    assert len(_list_names(rbl, "attacks", "--threat", "corruption")) == 15
    assert "poster-100" in _list_names(rbl, "attacks", "--threat", "sticker")


def test_kinds_and_words_narrow_a_list_and_add_up(rbl):
    boxes = _list_names(rbl, "attacks", "--kind", "black-box")
    assert {"square-linf-8", "boundary-l2-0.5", "spsa-linf-8"} <= set(boxes)
    assert "pgd50-linf-8" not in boxes
    both = _list_names(rbl, "attacks", "--kind", "black-box", "--threat", "l2")
    assert both == ["boundary-l2-0.5", "hopskipjump-l2-0.5", "square-l2-0.5"]
    assert _list_names(rbl, "attacks", "SQUARE", "2003.01690", "--threat", "l1") == ["autoattack-l1-12"]
    assert _list_names(rbl, "defenses", "--kind", "random") == ["noise-0.1", "resize-pad", "smoothing-0.25"]
    assert _list_names(rbl, "models", "--kind", "shipped", "plain") == ["zoo:signs-plain"]
    assert _list_names(rbl, "attacks", "--kind", "targeted", "--threat", "l2")[0].startswith("stop-to-speed")


def test_what_matches_nothing_is_said_and_is_no_mistake(rbl):
    assert rbl("list", "attacks", "no-such-word") == (0, "none of the attacks match\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["atacks"], "did you mean attacks?"),
        (["attacks", "--threat", "linff"], "did you mean linf?"),
        (["attacks", "--kind", "blackbox"], "did you mean black-box?"),
        (["data", "--threat", "linf"], "leave --threat out"),
    ],
)
def test_unknown_choices_are_refused_with_what_was_meant(rbl, arguments, message):
    code, out, err = rbl("list", *arguments)
    assert (code, out) == (2, "")
    assert message.casefold() in err.casefold()


def test_a_phrase_is_cut_between_words_and_details_are_left_out_whole():
    row = ListRow(name="mine", what="one two three", details=("steps=50", "restarts=5"))
    assert format_lines([row], 41) == ["mine  one two three, steps=50, restarts=5"]
    assert format_lines([row], 40) == ["mine  one two three, steps=50"]
    assert format_lines([row], 18) == ["mine  one two\N{HORIZONTAL ELLIPSIS}"]
    assert format_lines([ListRow(name="n" * 30, what="one")], 20)[0].startswith("n" * 30)


def test_filters_of_no_row_refuse_any_choice():
    with pytest.raises(ConfigError, match="Leave --kind out"):
        filter_rows([], kind="white-box")
    assert filter_rows(list_rows("data")) == list_rows("data")
