"""Models that follow MAITE's protocol, from a file and in Python, without MAITE being installed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import robustbench_local as rbl
from robustbench_local.errors import ConfigError, ModelError, RefusedError
from robustbench_local.models.maite_model import follows_maite
from robustbench_local.models.model_sources import load_classifier

IMAGES = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
MATRIX = np.random.default_rng(7).normal(size=(48, 4)).astype(np.float32)
EXPECTED = torch.from_numpy(IMAGES.flatten(1).numpy() @ MATRIX)
CODE = """
import numpy as np

class Linear:
    def __init__(self, scale=1.0, names=("stop", "give way", "no entry", "roundabout")):
        self.matrix = scale * np.random.default_rng(7).normal(size=(48, 4)).astype(np.float32)
        numbers = range(4) if scale == 1 else map(str, range(4))
        self.metadata = {"id": "linear-1", "index2label": dict(zip(numbers, names))}

    def __call__(self, batch):
        rows = np.stack([np.asarray(image).flatten() for image in batch]) @ self.matrix
        return [row for row in self.finish(rows)]

    def finish(self, rows):
        return rows

class Softmax(Linear):
    def finish(self, rows):
        parts = np.exp(rows - rows.max(1, keepdims=True))
        return parts / parts.sum(1, keepdims=True)

linear, softmax = Linear(), Softmax()

def make():
    return Linear()

def gapped():
    model = Linear()
    model.metadata = {"id": "gaps", "index2label": {1: "a", 2: "b"}}
    return model

class Short(Linear):
    def __call__(self, batch):
        return super().__call__(batch)[1:]

class Square(Linear):
    def __call__(self, batch):
        return [np.zeros((2, 2)) for _ in batch]

short, square, plain = Short(), Square(), object()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models.py").write_text(CODE)
    return tmp_path


def load(folder: Path, name: str, **options):
    return load_classifier(f"maite:models.py:{name}", base_folder=folder, allow_code=True, **options)


@pytest.mark.parametrize("name", ["linear", "make", "softmax"])
def test_a_model_of_a_file_gives_scores(folder: Path, name: str):
    found = load(folder, name)
    expected = EXPECTED - EXPECTED.amax(1, keepdim=True) if name == "softmax" else EXPECTED
    torch.testing.assert_close(found(IMAGES), expected, rtol=1e-4, atol=1e-4)
    assert (found.access, found.num_classes) == ("scores", 4)
    assert found.class_names == ("stop", "give way", "no entry", "roundabout")
    assert "MAITE model 'linear-1'" in found.notes
    assert not any("remove the softmax" in note for note in found.notes)
    assert found.provenance["maite_id"] == "linear-1"


def test_the_identity_follows_code_and_weights(folder: Path):
    first = load(folder, "linear")
    assert first.compute_digest() == load(folder, "linear").compute_digest()
    digests = {first.compute_digest(), load(folder, "softmax").compute_digest()}
    (folder / "models.py").write_text(CODE.replace("scale=1.0", "scale=2.0"))
    scaled = load(folder, "linear")  # whose numbers are texts
    assert scaled.class_names == first.class_names
    digests.add(scaled.compute_digest())
    assert len(digests) == 3
    assert any(name.startswith("code file models.py") for name in first.describe_parts())


def test_what_is_no_such_model_is_refused(folder: Path):
    with pytest.raises(RefusedError, match="allow it with --allow-code"):
        load_classifier("maite:models.py:linear", base_folder=folder)
    with pytest.raises(ModelError, match=r"is a object that does not follow MAITE's protocol"):
        load(folder, "plain")
    with pytest.raises(ModelError, match=r"index2label names the classes 1, 2, not 0 to 1"):
        load(folder, "gapped")
    with pytest.raises(ConfigError, match="gives no gradients"):
        load(folder, "linear", access="gradients")
    with pytest.raises(ConfigError, match="holds its weights"):
        load(folder, "linear", weights="w.pt")
    with pytest.raises(ModelError, match="4 answers to 5 images"):
        load(folder, "short")(IMAGES)
    with pytest.raises(ModelError, match=r"an answer has the shape \(2, 2\)"):
        load(folder, "square")(IMAGES)


class TensorModel:
    """Answers with tensors, and states no class names."""

    def __init__(self, metadata: object) -> None:
        self.metadata = metadata

    def __call__(self, batch: object) -> torch.Tensor:
        if len(batch) == 0:
            raise ValueError("no images")
        return torch.stack([torch.as_tensor(image) for image in batch]).flatten(1) @ torch.from_numpy(MATRIX)


def test_evaluate_recognizes_such_an_object():
    labels, options = EXPECTED.argmax(1), {"attack": "square", "norm": "linf", "eps": 0.3, "queries": 20}
    result = rbl.evaluate(TensorModel({"id": "tensors"}), IMAGES, labels, **options)
    assert result.clean_accuracy.value == 1
    assert result.robust_accuracy.value < 1
    with pytest.raises(ConfigError, match="must be a Classifier"):
        rbl.evaluate(TensorModel({"name": "no id"}), IMAGES, labels, **options)
    with pytest.raises(ModelError, match="tensors: raised RuntimeError"):
        rbl.evaluate(TensorModel({"id": "tensors"}), torch.rand(5, 3, 5, 5), labels, **options)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (TensorModel({"id": "a"}), True),
        (TensorModel({"id": 3}), False),
        (TensorModel({}), False),
        (TensorModel(None), False),
        (nn.Identity(), False),
        (len, False),
    ],
)
def test_the_protocol_is_recognized_by_its_shape_alone(model: object, expected: bool):
    assert follows_maite(model) == expected
    assert "maite" not in sys.modules


@pytest.mark.extra
def test_maite_itself_agrees(folder: Path):
    maite = pytest.importorskip("maite.protocols.image_classification", reason="needs the package maite")
    for model in (TensorModel({"id": "a"}), TensorModel({"id": "b", "index2label": {0: "x"}})):
        assert isinstance(model, maite.Model)
        assert follows_maite(model)
    assert not isinstance(object(), maite.Model)
