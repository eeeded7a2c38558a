"""``rbl train``: weights that a grid takes as they are, made again from what lies beside them."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file

from robustbench_local.cli import training_progress
from robustbench_local.cli.main import run_command
from robustbench_local.cli.training_progress import TrainingProgress
from robustbench_local.evaluation.evaluate import evaluate
from robustbench_local.evaluation.training import train_and_save as training
from robustbench_local.models.model_sources import load_classifier

USUAL = [
    "--data", "npz:signs.npz", "--val-share", "0.25", "--threads", "1", "--batch-size", "10",
    "--set", "warmup_epochs=0",
]  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Sixty images of three classes, five of each object, in a working directory."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 20)
    objects = np.tile(np.repeat(np.arange(4), 5), 3)
    images = generator.integers(0, 60, (60, 32, 32, 3), dtype=np.uint8)
    images[np.arange(60), :, :, labels] += 150
    np.savez(tmp_path / "signs.npz", x=images, y=labels, track=objects, class_names=["red", "green", "blue"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _train(*words, out="net.safetensors"):
    return run_command(["train", *words, *USUAL, "--out", out])


@pytest.mark.slow
def test_images_are_checked_and_left_out_before_a_training(place, capsys):
    table = "image,exclude\nsigns/3,yes\nsigns/7,no\n"
    (place / "findings.csv").write_text(table)
    assert _train("standard", "--set", "epochs=1", "--exclude", "findings.csv") == 0
    assert "checked 59 images in 3 classes: 3 classes with few images" in capsys.readouterr().out
    card = yaml.safe_load((place / "net.yaml").read_text())["provenance"]
    excluded = {"n": 1, "file": "findings.csv", "sha256": hashlib.sha256(table.encode()).hexdigest()}
    assert card["data"]["training"]["excluded"] == excluded
    assert "--exclude findings.csv" in card["made"]["command"]


@pytest.mark.slow
def test_weights_come_with_all_that_a_grid_needs(place):
    assert _train("standard", "--set", "epochs=3") == 0
    card = yaml.safe_load((place / "net.yaml").read_text())
    classifier = load_classifier("checkpoint:net.safetensors", base_folder=place)
    assert classifier.class_names == ("red", "green", "blue")
    made = card["provenance"]
    assert made["defense"]["card"] == "standard"
    assert made["defense"]["parameters"]["epochs"] == 3
    assert (made["data"]["training"]["objects"], made["data"]["validation"]["objects"]) == (9, 3)
    measured = made["measured"]
    found = [(one["attack"], one.get("loss"), one["n"], one["images"]) for one in measured]
    attacks = (("none", None), ("fgsm", None), ("pgd", None), ("pgd", "margin"))
    assert found == [(*attack, 15, "validation") for attack in attacks]
    assert all(one["low"] <= one["accuracy"] <= one["high"] for one in measured)
    assert measured[0]["accuracy"] == made["made"]["validation"]["clean"] > 0.9
    rows = list(csv.DictReader((place / "net.curves.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["validation_clean"]) > 0.9
    assert rows[0]["validation_robust"] == ""
    assert (place / "net.curves.png").stat().st_size > 5000
    assert not (place / "net.reference").exists()  # fifteen validation images say too little


@pytest.mark.slow
def test_the_command_in_the_card_makes_the_same_weights(place):
    _train(
        "pgd-at-linf-8",
        "--set",
        "epochs=1",
        "--set",
        "eps_warmup_epochs=0",
        "--set",
        "eps=0.9",
        "--autoattack",
        "3",
    )
    card = yaml.safe_load((place / "net.yaml").read_text())
    assert card["provenance"]["defense"]["threat"] == {"norm": "Linf", "eps": 0.9}
    assert card["provenance"]["measured"][-1].items() >= {"attack": "autoattack", "n": 3, "right": 0}.items()
    before = (place / "net.safetensors").read_bytes()
    (place / "net.safetensors").unlink()
    assert run_command(shlex.split(card["provenance"]["made"]["command"])[1:]) == 0
    assert (place / "net.safetensors").read_bytes() == before


def test_named_test_images_that_are_trained_on_are_refused(place, capsys):
    assert _train("standard", "--test", "npz:signs.npz") == 3
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "60 of its 60 images are training or validation images too" in lines[0]
    assert not (place / "net.safetensors").exists()


@pytest.mark.slow
def test_figures_on_some_images_are_on_all_classes_and_on_the_same_for_every_model(place, monkeypatch):
    """The images of the archive are sorted by class; AutoAttack and certificates get a part of them."""
    with np.load(place / "signs.npz") as signs:
        arrays = dict(signs)
    np.savez(
        place / "photos.npz", x=np.flip(arrays["x"], axis=1), y=arrays["y"], class_names=arrays["class_names"]
    )
    seen = []

    def evaluated(classifier, data, **how):
        seen.append(data)
        return evaluate(classifier, data, **how)

    monkeypatch.setattr(training, "evaluate", evaluated)
    monkeypatch.setattr(training, "count_certified", lambda _classifier, data, *_: seen.append(data) or 0)
    monkeypatch.setattr(training, "_MAX_CERTIFIED_IMAGES", 12)
    words = ["--test", "npz:photos.npz", "--autoattack", "6", "--set", "epochs=1"]
    assert _train("gaussian-0.25", *words) == 0
    assert _train("gaussian-0.25", *words, "--seed", "1") == 0
    first, second = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert [one.labels.bincount().tolist() for one in first] == [[20] * 3] * 3 + [[2] * 3] + [[4] * 3] * 2
    assert [one.ids for one in first] == [one.ids for one in second]


@pytest.mark.slow
def test_weights_that_changed_after_their_card_are_refused(place, capsys):
    _train("standard", "--set", "epochs=1")
    with (place / "net.safetensors").open("ab") as file:
        file.write(b" ")
    assert (
        run_command(
            ["train", "standard", *USUAL, "--model", "checkpoint:net.safetensors", "--out", "b.safetensors"]
        )
        == 3
    )
    assert "not the" in capsys.readouterr().err


@pytest.mark.slow
def test_fine_tuning_starts_from_the_weights_and_fits_the_head(place):
    assert (
        _train("standard", "--model", "zoo:signs-plain", "--set", "epochs=1", "--set", "learning_rate=1e-9")
        == 0
    )
    card = yaml.safe_load((place / "net.yaml").read_text())
    assert (card["architecture"], card["num_classes"]) == ("signs_resnet", 3)
    assert card["provenance"]["start"]["weights"] == "signs-plain.safetensors"
    found = load_file(place / "net.safetensors")
    before = load_classifier("zoo:signs-plain").module.state_dict()
    assert found["head.weight"].shape == (3, before["head.weight"].shape[1])
    assert torch.allclose(found["stem.weight"], before["stem.weight"], atol=1e-6)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["pgd-att-linf-8"], 2, "pgd-at-linf-8"),
        (["standard", "--set", "epoch=1"], 2, "epochs"),
        (["standard", "--set", "epochs"], 2, "KEY=VALUE"),
        (["standard", "--set", "epochs=many"], 2, "epochs: input should be a valid integer"),
        (["standard", "--data-option", "sizes=3"], 2, "size"),
        (["standard", "--model", "signs_resnett"], 2, "signs_resnet"),
        (["fine-tune"], 2, "Say which weights"),
        (["standard", "--set", "flip=[crimson]"], 2, "crimson"),
        (["standard", "--val", "npz:missing.npz"], 3, "no such file"),
        (["standard", "--group-pattern", "x+"], 2, "does not match"),
        (["pgd-at-linf-8", "--set", "eps=[1/255, 2/255]"], 2, "one radius"),
    ],
)
def test_a_mistake_is_one_line_and_a_code(place, capsys, words, code, message):
    assert _train(*words) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_weights_need_a_folder_and_a_suffix(place, capsys):
    for out in ("missing/net.safetensors", "net.pt"):
        assert _train("standard", out=out) == 2
        assert "--out" in capsys.readouterr().err


@pytest.mark.slow
def test_a_training_that_was_killed_ends_with_the_same_weights(place):
    words = ["pgd-at-linf-8", "--checkpoint", "net.ckpt", "--set", "epochs=8", "--set", "eps_warmup_epochs=4"]
    arguments = ["train", *words, *USUAL, "--out", "net.safetensors"]
    command = [sys.executable, "-m", "robustbench_local.cli", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout:
            if "epoch 3/8" in line:
                process.send_signal(signal.SIGKILL)
                break
        assert process.wait() == -signal.SIGKILL
    assert not (place / "net.safetensors").exists()
    assert _train(*words) == 0
    (place / "net.ckpt").unlink()
    assert _train(*words, out="whole.safetensors") == 0
    assert (place / "net.safetensors").read_bytes() == (place / "whole.safetensors").read_bytes()


def test_a_terminal_shows_a_bar_and_a_log_a_sign_of_life(monkeypatch):
    shown = io.StringIO()
    with TrainingProgress(Console(file=shown, force_terminal=True, width=80)) as speaker:
        speaker.step(3, 12)
        speaker.report("epoch 1/4")
        speaker._progress_bar.refresh()
    assert "3/12" in shown.getvalue()
    assert "epoch 1/4" in shown.getvalue()
    logged = io.StringIO()
    monkeypatch.setattr(training_progress, "_HEARTBEAT_SECONDS", -1.0)
    with TrainingProgress(Console(file=logged, width=80)) as speaker:
        speaker.step(3, 12)
    assert "step 3 of 12" in logged.getvalue()


@pytest.mark.skipif(sys.platform != "linux", reason="copies of a process need Linux")
@pytest.mark.parametrize(
    ("act", "words"),
    [
        ("os._exit(0)", "ended its process with code 0"),
        pytest.param("sys.exit(0)", "called sys.exit(0)", marks=pytest.mark.slow),
        pytest.param("os.abort()", "ended by signal 6 (SIGABRT)", marks=pytest.mark.slow),
    ],
)
def test_a_network_that_ends_its_training_ends_it_with_3(place, capfd, act, words):
    lines = ["import os, sys", "from torch import nn", "class Net(nn.Module):"]
    lines += ["    def __init__(self, num_classes):", "        super().__init__()"]
    lines += [
        "        self.head = nn.Linear(3072, num_classes)",
        "    def forward(self, images):",
        f"        {act}",
    ]
    (place / "net.py").write_text("\n".join([*lines, ""]))
    options = ["--model", "python:net.py:Net", "--allow-code", "--set", "epochs=1"]
    assert _train("standard", *options) == 3
    assert words in capfd.readouterr().err
    assert not (place / "net.safetensors").exists()
