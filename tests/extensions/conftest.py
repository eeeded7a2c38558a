"""The example package, as files and as an installed distribution, without a network."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from example_package import EXAMPLE, forget, write_distribution

from robustbench_local.extensions import entry_points


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on Python's path into which a test installs."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    entry_points._read_entry_points.cache_clear()
    yield folder
    entry_points._read_entry_points.cache_clear()
    forget("robustbench_example")


@pytest.fixture
def installed_example(site: Path) -> Path:
    """The example package as it lies where it is installed."""
    shutil.copytree(EXAMPLE / "src" / "robustbench_example", site / "robustbench_example")
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    write_distribution(site, project["name"], project["entry-points"])
    return site / "robustbench_example"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict]:
    """A folder with the example's data and model, and the grid of an attack there."""
    shutil.copy(EXAMPLE / "src" / "robustbench_example" / "blobs.py", tmp_path)
    monkeypatch.chdir(tmp_path)

    def build(attack: str | dict = "fgsm-linf-8", **changes: object) -> dict:
        entry = {"card": attack, "norm": "Linf", "eps": "8/255"} if attack != "fgsm-linf-8" else attack
        content = {
            "schema": 1,
            "name": "own",
            "data": {"source": "python:blobs.py:make_blobs", "limit": 6},
            "models": [{"id": "linear", "source": "python:blobs.py:make_linear"}],
            "attacks": [entry],
        }
        return content | changes

    return build


@pytest.fixture(scope="session", autouse=True)
def _short_runs(full_batch_size: int) -> None:
    """Runs here try few batch sizes."""
