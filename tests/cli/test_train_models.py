"""``rbl train --models``: from photographs to chosen weights, with one command."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from robustbench_local.cli.main import run_command
from robustbench_local.data.data_sources import load_dataset
from robustbench_local.evaluation.training import choose_network, network_trial
from robustbench_local.evaluation.training.stability import Stability
from robustbench_local.models.model_sources import load_classifier

COMMON = ["--data", "folder:photos", "--from-scratch", "--threads", "1", "--out", "trained"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Three classes of photographs of different sizes, one of them twice as large, in a working directory."""
    generator = np.random.default_rng(0)
    for label, (name, count) in enumerate({"a red one": 24, "green": 12, "Blau | é": 12}.items()):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 60, (36, 32 + number % 5, 3), dtype=np.uint8)
            pixels[:, :, label] += 150
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number:02}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _train(*words):
    return run_command(["train", *words, *COMMON])


def _read(place):
    return json.loads((place / "trained" / "comparison.json").read_text(encoding="utf-8"))


@pytest.fixture
def quick_measures(monkeypatch):
    """Networks are measured on clean images alone: what a comparison does with its figures is the same."""

    def measure(classifier, data):
        right = (classifier(data.images).argmax(dim=1) == data.labels).tolist()
        marks = {image: float(is_right) for image, is_right in zip(data.ids, right, strict=True)}
        return Stability(clean=marks, corruption=marks, attack=marks, groups=data.group_by_image)

    for module in (choose_network, network_trial):
        monkeypatch.setattr(module, "measure_stability", measure)


@pytest.mark.slow
def test_a_small_comparison(place, capsys, quick_measures):
    words = ["--models", "gtsrb_stn,signs_cnn", "--set", "epochs=1", "--set", "warmup_epochs=0"]
    words += ["--set", "head_epochs=0"]
    assert _train(*words, "--split", "none") == 0
    record = _read(place)
    assert {network["name"] for network in record["networks"]} == {"gtsrb_stn", "signs_cnn"}
    assert record["data"]["test"]["source"] == "folder:trained/photographs/test, test"
    assert (place / "trained" / "best.yaml").is_file()
    assert "may be chance" in capsys.readouterr().out
    assert _train(*words, "--split", "none") == 0
    assert "gtsrb_stn-seed0: trained before" in capsys.readouterr().out
    assert _read(place) == record


@pytest.mark.slow
def test_networks_are_compared_and_the_best_is_kept_with_all_that_follows_needs(place, capsys):
    words = ["--models", "signs_cnn,gtsrb_stn", "--seeds", "2", "--batch-size", "8"]
    assert _train(*words, "--set", "epochs=4") == 0
    out = capsys.readouterr().out
    record = _read(place)
    assert "divided folder:photos into trained/photographs: 30 train, 9 val, 9 test" in out
    assert "classes differ in size: each comes equally often in an epoch" in out
    assert "never mirrored" in out
    assert f"chosen: {record['chosen']['name']}, by the highest score" in out
    scores = {network["name"]: network["figures"]["score"]["value"] for network in record["networks"]}
    assert max(scores, key=scores.get) == record["chosen"]["name"] == record["networks"][0]["name"]
    best, other = record["networks"]
    assert best["behind"] is None
    assert other["behind"]["value"] == pytest.approx(scores[best["name"]] - scores[other["name"]])
    assert best["seed_spread"] == pytest.approx(max(best["seeds"].values()) - min(best["seeds"].values()))
    assert best["figures"]["clean"]["n"] == 9
    assert {row["images"] for row in record["test"]} == {"test"}
    assert all(row["n"] == 9 and row["low"] <= row["accuracy"] <= row["high"] for row in record["test"])
    rows = list(csv.DictReader((place / "trained" / "comparison.csv").read_text().splitlines()))
    assert [row["network"] for row in rows] == [best["name"], other["name"]]
    assert "points behind the chosen one" in (place / "trained" / "comparison.md").read_text()
    card = yaml.safe_load((place / "trained" / "best.yaml").read_text(encoding="utf-8"))
    assert card["provenance"]["selection"]["among"].keys() == scores.keys()
    assert card["provenance"]["defense"]["parameters"]["fine_tune"] is False
    classifier = load_classifier("checkpoint:trained/best.safetensors")
    assert set(classifier.class_names) == {"a red one", "green", "Blau | é"}
    test = load_dataset("folder:trained/photographs", contract=classifier.contract)
    right = (classifier(test.images).argmax(dim=1) == test.labels).float().mean()
    assert float(right) == pytest.approx(record["test"][0]["accuracy"], abs=1e-3)
    assert load_classifier(f"checkpoint:trained/{other['file']}").num_classes == 3


@pytest.mark.slow
def test_a_comparison_that_was_killed_ends_with_the_same_weights(place, capsys):
    words = ["--models", "signs_cnn", "--batch-size", "8", "--set", "epochs=6", "--set", "patience=0"]
    command = [sys.executable, "-m", "robustbench_local.cli", "train", *words, *COMMON]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout:
            if "epoch 3/6" in line:
                process.send_signal(signal.SIGKILL)
                break
        assert process.wait() == -signal.SIGKILL
    assert not (place / "trained" / "best.safetensors").exists()
    assert _train(*words) == 0
    assert "resumed after epoch" in capsys.readouterr().out
    resumed = (place / "trained" / "best.safetensors").read_bytes()
    assert _train(*words) == 0
    assert "trained before" in capsys.readouterr().out
    (place / "trained").rename(place / "before")
    assert _train(*words) == 0
    assert (place / "trained" / "best.safetensors").read_bytes() == resumed
    assert _train(*words, "--set", "learning_rate=0.1") == 2
    assert "made with another recipe" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.extra
def test_a_search_keeps_the_better_of_the_best_trial_and_the_cards_own_values(place, capsys):
    pytest.importorskip("optuna", reason="the search needs the extra tune")
    words = ["--models", "signs_cnn", "--batch-size", "8", "--set", "epochs=3", "--tune", "2"]
    assert _train(*words) == 0
    record = _read(place)
    tuning = record["tuning"]
    assert tuning["completed"] + tuning["pruned"] + tuning["failed"] == 2
    assert record["chosen"]["tuned"] is tuning["is_kept"] is (tuning["gain"]["value"] > 0)
    card = yaml.safe_load((place / "trained" / "best.yaml").read_text(encoding="utf-8"))
    parameters = card["provenance"]["defense"]["parameters"]
    source = tuning["settings"] if tuning["is_kept"] else record["networks"][0]["settings"]
    assert parameters["learning_rate"] == pytest.approx(source["learning_rate"])
    weights = (place / "trained" / "best.safetensors").read_bytes()
    assert _train(*words) == 0
    assert (place / "trained" / "best.safetensors").read_bytes() == weights
    assert len(list((place / "trained" / "work").glob("*-trial-*.result"))) <= 2


def test_one_class_is_refused(place, capsys):
    for name in ("green", "Blau | é"):
        (place / "photos" / name).rename(place / name)
    assert _train("--models", "signs_cnn") == 3
    assert "photos: there is one class" in capsys.readouterr().err.replace("trained/photographs", "photos")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        pytest.param(
            ["--models", "python:net.py:Net", "--allow-code"], 3, "sizes differ", marks=pytest.mark.slow
        ),
        (["--tune", "-1"], 2, "--tune"),
    ],
)
def test_other_mistakes_name_what_to_set(place, capsys, words, code, message):
    (place / "net.py").write_text(
        "from torch import nn\n\ndef Net(num_classes):\n    return nn.Sequential(nn.AdaptiveAvgPool2d(1), "
        "nn.Flatten(), nn.Linear(3, num_classes))\n"
    )
    assert _train(*words) == code
    error = capsys.readouterr().err
    assert message in error
    assert message != "sizes differ" or "--size 64" in error


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["standard", "--tune", "3"], 2, "--tune: is for networks that are compared. Add --models"),
        (["--models", "signs_cnn", "--model", "signs_cnn"], 2, "--model: contradicts --models"),
        (["--models", "signs_cnn", "--weights", "a.pt"], 2, "NAME=FILE"),
        (["--models", "signs_cnn", "--checkpoint", "a.ckpt"], 2, "the same command resumes"),
        (["--models", "signs_cnn", "--autoattack", "3"], 2, "in a grid"),
        (["--models", "signs_cnn", "--choose-by", "cleann"], 2, "did you mean clean?"),
        (["--models", "signs_cnnn"], 2, "did you mean signs_cnn?"),
        (["--models", "signs_cnn", "--out", "best.safetensors"], 2, "name a new folder"),
        (["--models", "signs_cnn", "--out", "a/b"], 2, "name a new folder"),
        (["--models", "signs_cnn", "--set", "epochs=1"], 2, "warmup_epochs"),
        (["--models", "signs_cnn", "--test-share", "0.9"], 2, "leave nothing to train on"),
        (["--models", "signs_cnn", "--data", "folder:missing"], 3, "no such folder"),
        (["--models", "checkpoint:missing.safetensors"], 3, "missing.safetensors"),
        (["--models", "mnist_fast"], 3, "cannot take color images"),
        (["--model", "signs_cnn=x.pt", "--weights", "DEFAULT"], 3, "x.pt"),
    ],
)
def test_a_mistake_is_one_line_and_a_code(place, capsys, words, code, message):
    given = COMMON if "standard" not in words else [word for word in COMMON if word != "--from-scratch"]
    assert run_command(["train", *given, *words]) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message.casefold() in lines[0].casefold()
    assert not (place / "trained" / "best.safetensors").exists()
