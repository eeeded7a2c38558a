from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_local.config.file_lookup import find_file
from robustbench_local.errors import ModelError


def test_a_relative_path_starts_from_the_base_then_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "both.pt").write_text(folder.name)
    (here / "one.pt").touch()
    monkeypatch.chdir(here)
    assert find_file("both.pt", there).read_text() == "there"
    assert find_file("both.pt").read_text() == "here"
    assert find_file("one.pt", there) == here / "one.pt"
    assert find_file(str(there / "both.pt")) == there / "both.pt"


def test_the_base_may_itself_be_reached_through_a_link(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (real / "net.pt").touch()
    (tmp_path / "shortcut").symlink_to(real)
    assert find_file("net.pt", tmp_path / "shortcut").is_file()


def test_a_missing_file_names_its_nearest_neighbour(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(
        ModelError, match=r"modle.safetensors: there is no such file. Did you mean model.safetensors"
    ):
        find_file("modle.safetensors", tmp_path)
    with pytest.raises(ModelError, match="Check the path"):
        find_file("nowhere/x.pt", tmp_path)


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with pytest.raises(ModelError, match="not a file"):
        find_file("models", tmp_path)


@pytest.mark.parametrize("target", ["gone.pt", "net.pt"])
def test_a_link_to_nowhere_or_to_itself_is_named(tmp_path: Path, target: str) -> None:
    (tmp_path / "net.pt").symlink_to(target)
    with pytest.raises(ModelError, match=r"net.pt: is a symbolic link that leads to no file"):
        find_file("net.pt", tmp_path)
