"""One output for two classes: probability or logit is declared, never guessed, and wrong ones are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.binary_output import (
    MIN_CHECKED_SCORES,
    expand_to_two_logits,
    parse_output_key,
)
from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.evaluation.options import Options
from robustbench_local.models.model_sources import load_classifier
from robustbench_local.run import run_grid

IMAGES = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def linear(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 1))
        nn.init.normal_(net[1].weight, std=3.0)
    with torch.no_grad():
        net[1].bias -= net(IMAGES).median()
    return net


def two_columns() -> nn.Module:
    net = linear()
    wide = nn.Linear(36, 2)
    with torch.no_grad():
        wide.weight.copy_(torch.cat([torch.zeros(1, 36), net[1].weight]))
        wide.bias.copy_(torch.cat([torch.zeros(1), net[1].bias]))
    return nn.Sequential(nn.Flatten(), wide)


@pytest.mark.parametrize(
    ("output", "wanted"),
    [
        ("sigmoid", (None, "sigmoid")),
        ("logit", (None, "logit")),
        ("a:logit", ("a", "logit")),
        ("1:sigmoid", ("1", "sigmoid")),
        ("logits", ("logits", None)),
        (0, (0, None)),
        (None, (None, None)),
        ("a:b", ("a:b", None)),
    ],
)
def test_what_output_says(output, wanted):
    assert parse_output_key(output) == wanted


@pytest.mark.parametrize("shape", [(12,), (12, 1), (12, 1, 1)])
@pytest.mark.parametrize("head", ["sigmoid", "logit"])
def test_logits_and_gradients_are_those_of_two_outputs(head, shape):
    tail = [nn.Sigmoid()] if head == "sigmoid" else []
    model = nn.Sequential(linear(), *tail, nn.Unflatten(0, (12,)), nn.Flatten(0)).eval()
    wrapped = Classifier(lambda x: model(x).reshape(shape), num_classes=2, output=head, access="gradients")
    plain = Classifier(two_columns(), num_classes=2)
    labels = torch.arange(12) % 2

    def loss(logits):
        return nn.functional.cross_entropy(logits, labels, reduction="none")

    for mine, other in zip(
        wrapped.compute_gradient(IMAGES, loss), plain.compute_gradient(IMAGES, loss), strict=True
    ):
        assert torch.allclose(mine, other, rtol=2e-3, atol=1e-5)
    assert wrapped.notes[0].startswith("its one output is read as the ")


def test_extreme_probabilities_stay_finite_in_order_and_nan_stays_nan():
    values = torch.tensor([0.0, 1e-30, 0.5, 1 - 2**-24, 1.0, torch.nan])
    logits = expand_to_two_logits(values, 6, "sigmoid", "net")
    assert logits[:5].isfinite().all()
    assert (logits[:5, 1].diff() >= 0).all()
    assert logits[2].tolist() == [0.0, 0.0]
    assert logits[5, 1].isnan()


def test_gradients_reach_saturated_negatives():
    pixel = torch.full((1, 1), -60.0, requires_grad=True)
    expand_to_two_logits(torch.sigmoid(pixel), 1, "sigmoid", "net")[0, 1].backward()
    assert pixel.grad.item() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("value", [-1e-6, 1.00001, 5.0, -3.0, torch.inf])
def test_a_probability_outside_its_range_is_refused(value):
    scores = torch.tensor([0.3, value])
    with pytest.raises(ModelError, match=r"no probability.*output: logit"):
        expand_to_two_logits(scores, 2, "sigmoid", "net")


@pytest.mark.parametrize("count", [MIN_CHECKED_SCORES - 1, MIN_CHECKED_SCORES])
def test_probabilities_declared_as_logits_are_refused_from_eight_on(count):
    model = nn.Sequential(linear(), nn.Sigmoid())
    classifier = Classifier(model, num_classes=2, output="logit")
    if count < MIN_CHECKED_SCORES:
        classifier(IMAGES[:count])
        with pytest.raises(ModelError, match="as probabilities do"):
            classifier(IMAGES[count : count + 1])
    else:
        with pytest.raises(ModelError, match=r"as probabilities do.*output: sigmoid"):
            classifier(IMAGES[:count])


def test_one_score_outside_ends_the_look():
    classifier = Classifier(lambda x: x.flatten(1)[:, :1], num_classes=2, output="logit")
    classifier(torch.full((1, 1, 2, 2), 1.0) * torch.tensor(1.0))
    outside = Classifier(lambda x: x.flatten(1)[:, :1] - 2, num_classes=2, output="logit")
    outside(torch.rand(1, 1, 2, 2))
    assert outside._model_call.logit_check is None
    assert classifier._model_call.logit_check is not None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: Classifier(linear(), num_classes=1),
            "at least 2 classes, got 1. With one output.*sigmoid.*logit",
        ),
        (
            lambda: Classifier(linear(), num_classes=2)(IMAGES),
            "one value an image.*output: sigmoid.*output: logit",
        ),
        (
            lambda: Classifier(nn.Sequential(linear(), nn.Flatten(0)), num_classes=2)(IMAGES),
            "one value an image",
        ),
        (lambda: Classifier(linear(), num_classes=3)(IMAGES), "has 1 output.*output: sigmoid"),
        (lambda: Classifier(linear(), num_classes=3, output="logit"), "stands for 2 classes"),
        (
            lambda: Classifier(two_columns(), num_classes=2, output="logit")(IMAGES),
            "(?i)leave output: logit out",
        ),
        (lambda: Classifier(lambda x: (x, x), num_classes=2, output="logit")(IMAGES), "ENTRY:logit"),
    ],
)
def test_nothing_is_guessed_and_the_remedies_do_not_go_in_a_circle(make, words):
    with pytest.raises(ModelError, match=words):
        make()


@pytest.mark.parametrize(("output", "key"), [("logit", "logit"), ("p:logit", "p"), ("1:logit", 1)])
def test_entries_of_dicts_and_tuples(output, key):
    def model(images):
        scores = linear()(images)
        return {key: scores, "other": images} if isinstance(key, str) else (images, scores)

    classifier = Classifier(model, num_classes=2, output=output)
    assert torch.equal(classifier(IMAGES)[:, 1], linear()(IMAGES)[:, 0].detach())


def test_an_entry_called_logit_with_a_column_a_class_is_read_as_before():
    classifier = Classifier(lambda x: {"logit": two_columns()(x)}, num_classes=2, output="logit")
    assert torch.allclose(classifier(IMAGES), two_columns()(IMAGES))


def test_labels_come_from_one_output_too():
    classifier = Classifier(linear(), num_classes=2, output="logit", access="labels")
    assert torch.equal(classifier(IMAGES).argmax(1), (linear()(IMAGES)[:, 0] > 0).long())


CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.register_buffer("row", torch.linspace(-1, 1, 36) * 4)

    def forward(self, images):
        z = images.flatten(1) @ self.row
        if self.kind == "two":
            return torch.stack([torch.zeros_like(z), z], 1)
        return torch.sigmoid(z)[:, None] if self.kind == "sigmoid" else z

def two(): return Net("two")
def sigmoid(): return Net("sigmoid")
def logit(): return Net("logit")
"""


@pytest.mark.slow
def test_a_grid_gives_one_output_and_two_the_same_verdicts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(CODE)
    images = torch.randint(0, 256, (16, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    scores = (images / 255).flatten(1) @ (torch.linspace(-1, 1, 36) * 4)
    np.savez(tmp_path / "d.npz", x=images.numpy(), y=(scores > 0).long().numpy())
    grid = {
        "name": "one",
        "data": {"source": "npz:d.npz"},
        "models": [
            {"id": "two", "source": "python:net.py:two"},
            {"id": "sigmoid", "source": "python:net.py:sigmoid", "output": "sigmoid"},
            {"id": "logit", "source": "python:net.py:logit", "output": "logit"},
        ],
        "attacks": [{"card": "pgd50-linf-8", "steps": 5, "restarts": 1}],
    }
    run = run_grid(grid, options=Options(allow_code=True, batch_size=16, workers=1, device="cpu"))
    shares = {
        cell["model"]: tuple(cell[key]["value"] for key in ("clean_accuracy", "robust_accuracy"))
        for cell in run.results["cells"]
    }
    assert shares["two"] == shares["sigmoid"] == shares["logit"]
    assert shares["two"][0] == 1.0
    assert 0 < shares["two"][1] < 1


@pytest.mark.slow
def test_a_checkpoint_with_one_output_loads(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def net(num_classes=2):\n    return nn.Sequential(nn.Flatten(), nn.Linear(36, num_classes))\n"
    )
    torch.save(linear().state_dict(), tmp_path / "w.pt")
    options = {"architecture": "python:net.py:net", "allow_code": True, "base_folder": tmp_path}
    loaded = load_classifier("checkpoint:w.pt", output="logit", default_classes=2, **options)
    assert (loaded.num_classes, tuple(loaded(IMAGES).shape)) == (2, (12, 2))
    assert torch.allclose(loaded(IMAGES)[:, 1], linear()(IMAGES)[:, 0])
    with pytest.raises(ConfigError, match="stands for 2 classes, but num_classes is 5"):
        load_classifier("checkpoint:w.pt", output="logit", num_classes=5, **options)
