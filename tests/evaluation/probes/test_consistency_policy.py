"""What follows: refused with the cause and exit code 3, or marked wherever its numbers are shown."""

from __future__ import annotations

import json
from pathlib import Path

import inconsistent_models as models
import numpy as np
import pytest
import torch

import robustbench_local as rbl
from robustbench_local.attacks.transfer.mi_fgsm import MIFGSM
from robustbench_local.classifier import Classifier
from robustbench_local.cli.main import run_command
from robustbench_local.defenses.wrappers.wrapper_registry import build_wrapper
from robustbench_local.errors import ConfigError, ModelError

ATTACK = {"attack": "pgd50-linf-8", "eps": "32/255"}
SOURCE = (Path(models.__file__)).read_text(encoding="utf-8")


def data(model=None, count=12):
    images = models.make_images(count)
    with torch.no_grad():
        return images, (model or models.Network())(images).argmax(dim=1)


@pytest.mark.parametrize("kind", ["mean", "copies"])
def test_evaluate_refuses(kind):
    classifier = Classifier(models.make_batch_dependent_models()[kind], num_classes=5, name="it")
    with pytest.raises(ModelError, match=r"^it: ") as caught:
        rbl.evaluate(classifier, data(), **ATTACK)
    assert caught.value.exit_code == 3
    assert "allow_batch_dependence" in str(caught.value)


def test_a_surrogate_is_refused_as_well():
    surrogate = Classifier(models.make_batch_dependent_models()["mean"], num_classes=5, name="other")
    classifier = Classifier(models.Network(), num_classes=5)
    with pytest.raises(ModelError, match=r"^other: answers depend"):
        rbl.evaluate(classifier, data(), attack=MIFGSM(), norm="Linf", eps=0.1, surrogate=surrogate)


def test_certify_refuses():
    classifier = Classifier(models.make_batch_dependent_models()["mean"], num_classes=5, name="it")
    with pytest.raises(ModelError, match="answers depend"):
        rbl.certify(classifier, data(), certificate="certify-crown-linf-2")


def test_stickers_refuse():
    classifier = Classifier(
        models.make_history_dependent_models(Path())["attribute"], num_classes=5, name="it"
    )
    with pytest.raises(ModelError, match="remembers"):
        rbl.evaluate(classifier, data(), attack="sticker-10", targets=[1], sources=[2], test_views=2)


def test_a_defended_model_refuses():
    defended = build_wrapper("jpeg", {"quality": 75}).wrap(
        Classifier(models.make_batch_dependent_models()["sort"], num_classes=5, name="it")
    )
    with pytest.raises(ModelError, match="answers depend"):
        rbl.evaluate(defended, data(), **ATTACK)


def test_allowed_it_runs_at_the_declared_batch_size_and_says_so():
    sizes = []

    def forward(self, images):
        sizes.append(len(images))
        return self.layers((images - images.mean(0, keepdim=True)) * 3 + 0.5)

    classifier = Classifier(models.make_variant(forward=forward), num_classes=5, name="it")
    with pytest.raises(ConfigError, match="Give --batch-size N"):
        rbl.evaluate(classifier, data(), **ATTACK, options=rbl.Options(allow_batch_dependence=True))
    sizes.clear()
    result = rbl.evaluate(
        classifier, data(), **ATTACK, options=rbl.Options(allow_batch_dependence=True, batch_size=5)
    )
    assert set(sizes[-20:]) == {5}
    (note,) = [note for note in result.notes if note.startswith("not to be relied on")]
    assert "answers depend on the other images of the batch" in note
    assert "batches of exactly 5" in note


@pytest.mark.parametrize(
    "kind",
    [
        "counter",
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in ("attribute", "global", "closure", "class counter")
        ),
    ],
)
def test_what_remembers_is_broken_as_often_as_what_does_not(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "REMEMBERED_ANSWERS", [])
    honest = rbl.evaluate(Classifier(models.Network(), num_classes=5), data(), **ATTACK)
    network = models.make_history_dependent_models(tmp_path)[kind]
    classifier = Classifier(network, num_classes=5, name="it")
    with pytest.raises(ModelError, match="remembers"):
        rbl.evaluate(classifier, data(), **ATTACK)
    result = rbl.evaluate(classifier, data(), **ATTACK, options=rbl.Options(allow_batch_dependence=True))
    assert result.counts.robust == honest.counts.robust < honest.counts.clean_correct
    assert any(note.startswith("not to be relied on: remembers") for note in result.notes)


def test_memory_that_begins_after_the_probe_ends_the_evaluation():
    def forward(self, images):  # it begins to count only once a pixel is brighter than in any clean image
        answers = self.layers(images)
        self.calls += 1 if self.calls or float(images[:, 0, 0, 0].max()) > 0.95 else 0
        return answers * (-1 if self.calls > 10 else 1)

    classifier = Classifier(models.make_variant(forward=forward), num_classes=5, name="it")
    images = 0.93 * models.make_images()
    images[:, 0, 0, 0] = 0.93
    with torch.no_grad():
        labels = models.Network()(images).argmax(dim=1)
    with pytest.raises(ModelError, match=r"it: remembers: after the attack it answers . of 4 images"):
        rbl.evaluate(
            classifier,
            (images, labels),
            attack="pgd50-linf-8",
            eps="8/255",
            options=rbl.Options(batch_size=6),
        )


GRID = """\
schema: 1
name: company
data: {source: "npz:images.npz"}
models:
  - {id: honest, source: "python:inconsistent_models.py:Network", num_classes: 5}
  - {id: averaging, source: "python:inconsistent_models.py:Averaging", num_classes: 5}
attacks: [{card: pgd50-linf-8, steps: 3}]
gates:
  - {metric: robust_accuracy, threat: linf-8, min: 0.01, on: estimate, model: averaging}
  - {metric: clean_accuracy, min: 0.01, on: estimate, model: averaging}
"""
AVERAGING = """

class Averaging(Network):
    def prepare_images(self, images):
        return (images - images.mean(0, keepdim=True)) * 3 + 0.5
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    images, labels = data()
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "images.npz", x=pixels, y=labels.numpy())
    (tmp_path / "inconsistent_models.py").write_text(SOURCE + AVERAGING, encoding="utf-8")
    (tmp_path / "grid.yaml").write_text(GRID, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys):
    """Runs the grid as a user does; returns the exit code and all that is printed, in one line."""

    def run(*arguments):
        code = run_command(
            ["run", "grid.yaml", "--allow-code", "--device", "cpu", "--workers", "1", *arguments]
        )
        captured = capsys.readouterr()
        return code, " ".join((captured.out + captured.err).split())

    return run


@pytest.mark.slow
def test_the_command_line_refuses_with_exit_code_3(place, run):
    honest = '  - {id: honest, source: "python:inconsistent_models.py:Network", num_classes: 5}\n'
    assert honest in GRID
    (place / "grid.yaml").write_text(GRID.replace(honest, ""), encoding="utf-8")
    code, said = run()
    assert code == 3
    assert "averaging: answers depend on the other images of the batch (logits differ by" in said
    assert "--allow-batch-dependence" in said


@pytest.mark.slow
@pytest.mark.parametrize("how", ["flag", "grid"])
def test_allowed_every_form_of_the_report_is_marked(place, run, how):
    if how == "grid":
        (place / "grid.yaml").write_text(GRID + "allow_batch_dependence: true\n", encoding="utf-8")
    flags = ["--allow-batch-dependence"] if how == "flag" else []
    code, said = run("--batch-size", "5", *flags)
    assert code == 4
    assert "not to be relied on: answers depend on the other images of the batch" in said
    assert said.count("INCONCLUSIVE averaging ") == 2
    content = rbl.Run(place / "runs" / "company").results
    doubts = content["doubts"]
    assert {doubt["model"] for doubt in doubts} == {"averaging"}
    assert "answers depend on the other images" in json.dumps(doubts)
    report = (place / "runs" / "company" / "report.md").read_text(encoding="utf-8")
    assert "answers depend on the other images of the batch" in " ".join(report.split())
    code, said = run("--batch-size", "6", *flags)
    assert code == 2
    assert "batch size of model averaging" in said
