"""What a shell is told: names of cards, grid files, and the choices of filters."""

from __future__ import annotations

import pytest

from robustbench_local.cli.completion import (
    LIST_NAMES,
    complete_grid_files,
    complete_kinds,
    complete_list_names,
    complete_paths,
    complete_threats,
)
from robustbench_local.cli.listing import LISTS
from robustbench_local.cli.main import run_command


@pytest.fixture
def complete(monkeypatch, capsys):
    """Asks as a shell does: the words of the line, the last of which is not finished."""
    monkeypatch.setattr("sys.argv", ["rbl"])

    def ask(line):
        words = line.split(" ")
        monkeypatch.setenv("_RBL_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        assert run_command([]) == 0
        return capsys.readouterr().out.split()

    return ask


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rbl sh", ["show"]),
        ("rbl show pgd50-m", ["pgd50-margin-linf-8"]),
        ("rbl show zoo:signs-p", ["zoo:signs-pgd-at", "zoo:signs-plain"]),
        ("rbl list cert", ["certificates"]),
        ("rbl list attacks --kind score", ["score-based"]),
        ("rbl list attacks --threat l", ["l0", "l1", "l2", "linf"]),
        ("rbl init --example st", ["stickers"]),
        ("rbl train trades-a", ["trades-awp-linf-8"]),
    ],
)
def test_names_and_choices_are_completed(complete, line, expected):
    assert complete(line) == expected


def test_cards_of_the_user_are_completed(complete, tmp_path):
    (tmp_path / "my-own-attack.yaml").touch()
    assert complete(f"rbl show --cards {tmp_path} my-") == ["my-own-attack"]
    assert complete(f"rbl show --cards {tmp_path / 'missing'} pgd20") == ["pgd20-linf-8"]


def test_run_is_given_grid_files_and_the_folders_on_the_way(complete, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("grid.yaml", "other.yml", "notes.txt", ".hidden.yaml"):
        (tmp_path / name).touch()
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids" / "deep.yaml").touch()
    assert complete("rbl run ") == ["grid.yaml", "grids/", "other.yml"]
    assert complete("rbl run grids/") == ["grids/deep.yaml"]
    assert complete_grid_files(f"{tmp_path}/o") == [f"{tmp_path}/other.yml"]
    assert complete_grid_files("grids") == [], "folders only: the shell does it better"
    assert complete_grid_files("missing/") == []
    assert complete_paths("g") == []


def test_choices_are_those_of_the_commands():
    assert tuple(LISTS) == LIST_NAMES == tuple(sorted(complete_list_names(""), key=LIST_NAMES.index))
    assert "white-box" in complete_kinds("")
    assert "linf" in complete_threats("")


def test_the_script_for_a_shell_is_printed(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["rbl"])
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    assert run_command(["--show-completion", "bash"]) == 0
    assert "_RBL_COMPLETE=complete_bash" in capsys.readouterr().out
