"""A grid whose defenses are recipes: trained once, found again, resumed, and announced by a dry run."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from safetensors.torch import save_file

from robustbench_local.cli.main import run_command
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.options import Options
from robustbench_local.evaluation.training import weight_cache as workshop
from robustbench_local.models.networks.network_registry import find_architecture, seeded_initial_weights
from robustbench_local.models.weight_files import read_weights
from robustbench_local.run import prepare_run, run_grid

pytestmark = pytest.mark.slow

SHORT = {"epochs": 2, "batch_size": 8, "warmup_epochs": 0}
GRID = {
    "data": {"source": "npz:digits.npz"},
    "training": {"source": "npz:digits.npz", "val_share": 0.3},
    "models": [{"id": "first", "source": "checkpoint:first.safetensors", "architecture": "mnist_fast"}],
    "defenses": ["none", {"card": "standard", **SHORT}],
    "attacks": ["fgsm-linf-8"],
}


@pytest.fixture(autouse=True)
def cache(workplace, monkeypatch):
    """A cache of its own."""
    monkeypatch.setenv("RBL_CACHE", str(workplace / "cache"))
    return workplace / "cache"


def _grid(**changes):
    return {**GRID, **changes}


def test_a_recipe_is_trained_once_and_attacked_like_any_model(cache, monkeypatch):
    lines = []
    plan, _ = prepare_run(_grid(), report=lines.append)
    plain, trained = plan.subjects
    assert lines[0].startswith("training first by standard[")
    assert (plain.defense, trained.defense) == ("none", lines[0].split(" by ")[1].split(", ")[0])
    assert plain.digest != trained.digest
    assert trained.description["provenance"]["defense"]["method"] == "standard"
    (weights,) = cache.glob("*.safetensors")
    assert yaml.safe_load(weights.with_suffix(".yaml").read_text())["architecture"] == "mnist_fast"
    assert not list(cache.glob("*.checkpoint"))
    monkeypatch.setattr(workshop, "fit", None)  # calling it would fail
    again, _ = prepare_run(_grid(), report=lines.append)
    assert again.subjects[1].digest == trained.digest
    run = run_grid(_grid(), out="out")
    assert run.is_complete
    assert {cell["defense"] for cell in run.results["cells"]} == {"none", trained.defense}


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"training": {"source": "npz:digits.npz", "val_share": 0.5}},
        {"defenses": [{"card": "standard", **SHORT, "learning_rate": 0.01}]},
        {"defenses": [{"card": "standard", **SHORT, "fine_tune": True}]},
    ],
    ids=["seed", "images", "recipe", "start"],
)
def test_what_decides_the_weights_decides_the_cached_file(cache, changes):
    digest = prepare_run(_grid())[0].subjects[-1].digest
    other = prepare_run(_grid(**changes))[0].subjects[-1].digest
    assert len(list(cache.glob("*.safetensors"))) == 2
    assert digest != other


def test_fine_tuning_starts_from_the_models_own_weights():
    small = {"card": "standard", **SHORT, "epochs": 1, "learning_rate": 1e-12, "fine_tune": True}
    plain, tuned = prepare_run(_grid(defenses=["none", small]))[0].subjects
    one, other = (each.classifier.module.state_dict() for each in (plain, tuned))
    assert all((one[name] - other[name]).abs().max() < 1e-6 for name in one)


def test_an_interrupted_training_goes_on_where_it_was(cache):
    whole = prepare_run(_grid())[0].subjects[1].digest
    for file in cache.iterdir():
        file.unlink()

    def interrupt(line):
        if line.startswith("epoch 1/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_run(_grid(), report=interrupt)
    assert not list(cache.glob("*.safetensors"))
    lines = []
    assert prepare_run(_grid(), report=lines.append)[0].subjects[1].digest == whole
    assert lines[1] == "resumed after epoch 1 of 2"


def test_a_dry_run_trains_nothing_and_says_so(cache, workplace, capsys):
    (workplace / "grid.yaml").write_text(yaml.safe_dump(_grid()))
    assert run_command(["run", "grid.yaml", "--dry-run"]) == 0
    assert "would first be trained: first by standard" in " ".join(capsys.readouterr().out.split())
    assert not cache.exists()


def test_training_needs_images():
    with pytest.raises(ConfigError, match=r"names no images for it.*training: \{source"):
        prepare_run(_grid(training=None))


def test_what_cannot_be_trained_is_named(workplace):
    (workplace / "net.py").write_text("def model(images):\n    return images.flatten(1)[:, :10]\n")
    model = {"id": "net", "source": "python:net.py:model", "num_classes": 10}
    plan, _ = prepare_run(_grid(models=[model]), options=Options(allow_code=True))
    plain, trained = plan.subjects
    assert plain.problem is None
    assert "cannot be trained" in str(trained.problem)
    assert [cell.problem is None for cell in plan.cells] == [cell.subject is plain for cell in plan.cells]


def test_images_that_were_trained_on_are_counted_in_a_note(workplace):
    plan, _ = prepare_run(_grid())
    assert len(plan.data) == 40
    expected = (
        "of the 40 evaluated images 28 trained it and 12 chose its epoch, so its figures are too good: "
        "evaluate on images of their own"
    )
    plain, trained = plan.subjects
    assert expected in trained.description["notes"]
    assert f"model {trained}: {expected}" in plan.warnings
    assert not any("trained it" in note for note in plain.description["notes"])


def test_a_dry_run_counts_them_too(cache):
    plan, _ = prepare_run(_grid(), is_dry_run=True)
    assert any("trained it" in line for line in plan.warnings)
    assert not cache.exists()


def test_images_of_their_own_need_no_note(workplace):
    with np.load(workplace / "digits.npz") as known:
        np.savez(workplace / "others.npz", x=255 - known["x"], y=known["y"])
    plan, _ = prepare_run(_grid(data={"source": "npz:others.npz"}))
    assert not any("trained it" in line for line in plan.warnings)


def test_a_teacher_that_was_replaced_teaches_another_student(cache, workplace):
    taught = {"card": "distillation-t20", **SHORT, "epochs": 1, "teacher": "checkpoint:t.safetensors"}
    digests = []
    for seed in (1, 2, 1):
        _write_teacher(workplace / "t.safetensors", seed)
        digests.append(prepare_run(_grid(defenses=[taught]))[0].subjects[-1].digest)
    assert digests[0] == digests[2] != digests[1]
    assert len(list(cache.glob("*.safetensors"))) == 2


def _write_teacher(path, seed):
    """Weights with a card, as `rbl train` leaves them."""
    with seeded_initial_weights(seed):
        save_file(find_architecture("mnist_fast").build_network(10).state_dict(), path)
    card = {
        "schema": 1,
        "name": path.stem,
        "weights": path.name,
        "sha256": read_weights(path).sha256,
        "architecture": "mnist_fast",
        "num_classes": 10,
        "normalize": None,
        "class_names": list("0123456789"),
        "provenance": {},
    }
    path.with_suffix(".yaml").write_text(yaml.safe_dump(card))
