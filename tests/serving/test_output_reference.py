"""The reference of a served model: what ``rbl train`` wrote beside its weights, or images that are named."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra web")
from serving_samples import MeanColor, make_model

from robustbench_local.cli.main import run_command
from robustbench_local.errors import DataError
from robustbench_local.serving.model_choice import choose_models
from robustbench_local.serving.reference import ReferenceData, find_reference
from robustbench_local.serving.served_model import ServedModel

pytestmark = pytest.mark.extra


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Sixty images of three classes, one of them rare, in a working directory."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), (28, 28, 4))
    for name in ("signs", "other"):
        pixels = generator.integers(0, 60, (60, 32, 32, 3), dtype=np.uint8)
        pixels[np.arange(60), :, :, labels] += 150
        np.savez(tmp_path / f"{name}.npz", x=pixels, y=labels, class_names=["red", "green", "blue"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_named_images_are_used_in_the_model_s_size(images):
    model = make_model()
    known = find_reference(model, ReferenceData(source="npz:signs.npz", split="test"))
    assert known.probabilities.shape == (60, 3)
    assert known.probabilities.sum(dim=1).numpy() == pytest.approx(np.ones(60), abs=1e-5)
    assert known.source == "npz:signs.npz, test"
    assert find_reference(model, None) is None
    blind = make_model(MeanColor().eval(), access="labels")
    assert find_reference(blind, ReferenceData(source="npz:signs.npz", split="test")) is None
    with pytest.raises(DataError, match="a reference of 20 images says too little"):
        find_reference(model, ReferenceData(source="npz:signs.npz", split="test", limit=20))


@pytest.mark.slow
def test_a_training_writes_the_reference_of_its_weights(images):
    words = ["train", "standard", "--data", "npz:signs.npz", "--out", "net.safetensors", "--threads", "1"]
    words += ["--set", "epochs=1", "--set", "warmup_epochs=0", "--batch-size", "10"]
    assert run_command([*words, "--test", "npz:other.npz"]) == 0
    choice = choose_models("net.safetensors", settings={})[0]
    assert (choice.name, choice.source) == ("net", "checkpoint:net.safetensors")
    model = ServedModel(choice, choice.load())
    known = find_reference(model, None)
    assert len(known.probabilities) == 60
    again = find_reference(model, ReferenceData(source="npz:other.npz", split="test"))
    assert again.probabilities.numpy() == pytest.approx(known.probabilities.numpy(), abs=1e-5)

    model.classifier.provenance["sha256"] = "0" * 64
    with pytest.raises(DataError, match=r"net\.reference: the reference belongs to other weights"):
        find_reference(model, None)
