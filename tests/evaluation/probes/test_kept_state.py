"""Models that remember: what the probe finds, what D29 says, and that no verdict rests on a changed model."""

from __future__ import annotations

import sqlite3
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from robustbench_local.attacks import make_attack
from robustbench_local.classifier import Classifier
from robustbench_local.data.dataset import Dataset
from robustbench_local.errors import ModelError
from robustbench_local.evaluation.diagnostics.kept_state import KeptState
from robustbench_local.evaluation.harness.answer_agreement import AgreementCounts
from robustbench_local.evaluation.harness.attack_job import AttackJob
from robustbench_local.evaluation.probes.consistency_policy import check_consistency
from robustbench_local.evaluation.probes.file_watch import watch_files
from robustbench_local.threats.threat_model import ThreatModel

BALL = ThreatModel(norm="Linf", eps=0.1)


class Linear(nn.Module):
    """Two classes; a subclass hides behind one answer once it has been asked often enough."""

    limit = 400

    def __init__(self, file=None):
        super().__init__()
        self.layer = nn.Linear(12, 2, bias=False)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(2, 12, generator=generator))
        self.file = str(file)

    def forward(self, images):
        answers = self.layer(images.flatten(1) - 0.5)
        return answers * 0 if self.count_calls(len(images)) > self.limit else answers

    def count_calls(self, images):
        return 0


class TextCounter(Linear):
    def count_calls(self, images):
        with open(self.file, "a+", encoding="utf-8") as stream:  # noqa: PTH123
            stream.seek(0)
            calls = len(stream.read())
            stream.write("x" * images)
        return calls


class DatabaseCounter(Linear):
    def count_calls(self, images):
        connection = sqlite3.connect(self.file)
        with connection:
            connection.execute("CREATE TABLE IF NOT EXISTS calls (n INTEGER)")
            connection.execute("INSERT INTO calls VALUES (?)", (images,))
            total = connection.execute("SELECT sum(n) FROM calls").fetchone()[0]
        connection.close()
        return total


class Logger(Linear):
    def count_calls(self, images):
        with open(self.file, "a", encoding="utf-8") as stream:  # noqa: PTH123
            stream.write("asked\n")
        return 0


class SimilarQueries(Linear):
    """Blocks an image after fifty similar ones, as stateful detection does."""

    def forward(self, images):
        if not hasattr(self, "seen"):
            self.seen = []
        answers = self.layer(images.flatten(1) - 0.5)
        rows = []
        for image, answer in zip(images.detach(), answers, strict=True):
            similar = sum(bool((image - known).abs().max() < 0.25) for known in self.seen)
            rows.append(answer * 0 if similar > 50 else answer)
            self.seen.append(image.clone())
        return torch.stack(rows)


@pytest.fixture
def data():
    images = torch.rand(8, 3, 2, 2, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        labels = Linear()(images).argmax(dim=1)
    return Dataset(images=images, labels=labels, ids=tuple("abcdefgh"), class_names=("0", "1"), name="random")


def read_diagnostic(classifier):
    return KeptState().check_model(SimpleNamespace(classifier=classifier))


def attack(classifier, data, **parameters):
    job = AttackJob(
        key="k", classifier=classifier, data=data, threat=BALL, seed=1, attack=make_attack("pgd", parameters)
    )
    with classifier.evaluation_mode():
        return job.run(list(range(len(data))))


@pytest.mark.parametrize("kind", [TextCounter, pytest.param(DatabaseCounter, marks=pytest.mark.slow)])
def test_memory_in_a_file_fails_the_diagnostic_and_ends_the_cell(kind, data, tmp_path):
    classifier = Classifier(kind(tmp_path / "calls"), num_classes=2, name="counter")
    check_consistency(classifier, data.images)
    assert classifier.settings.consistency.read_files == ("calls",)
    reading = read_diagnostic(classifier)
    assert reading.status == "fail"
    assert "calls" in reading.sentence
    batch = attack(classifier, data, steps=60)
    assert batch.agreement.repeated_disagreements > 0
    with pytest.raises(ModelError, match="no copy resets"):
        batch.agreement.check_agreement("counter")


def test_a_log_is_no_memory(data, tmp_path):
    classifier = Classifier(Logger(tmp_path / "log"), num_classes=2)
    check_consistency(classifier, data.images)
    assert read_diagnostic(classifier).status == "ok"
    batch = attack(classifier, data, steps=5)
    assert (batch.agreement.repeated, batch.agreement.repeated_disagreements) == (4, 0)
    batch.agreement.check_agreement("logger")


def test_a_model_that_blocks_similar_queries_is_judged_as_one_without_memory(data):
    blocking = Classifier(SimilarQueries(), num_classes=2)
    check_consistency(blocking, data.images, allowed=True)
    plain = attack(Classifier(Linear(), num_classes=2), data, steps=40)
    blocked = attack(blocking, data, steps=40)
    assert [row.broken for row in blocked.outcomes] == [row.broken for row in plain.outcomes]
    assert read_diagnostic(blocking).status in {"info", "fail"}


def test_a_model_without_memory_passes(data):
    classifier = Classifier(Linear(), num_classes=2)
    assert read_diagnostic(classifier).status == "not run"
    check_consistency(classifier, data.images)
    assert read_diagnostic(classifier).status == "ok"


@pytest.mark.parametrize(
    ("counts", "is_refused"),
    [((4, 0), False), ((4, 1), False), ((4, 2), True), ((1, 1), True), ((400, 2), True)],
)
def test_one_batch_with_changed_answers_is_enough(counts, is_refused):
    agreement = AgreementCounts(repeated=counts[0], repeated_disagreements=counts[1])
    if is_refused:
        with pytest.raises(ModelError, match="no copy resets"):
            agreement.check_agreement("model")
    else:
        agreement.check_agreement("model")


@pytest.mark.parametrize(("mode", "is_read"), [("a", False), ("w", False), ("a+", True), ("r+", True)])
def test_files_that_are_read_are_told_from_those_that_are_only_written(mode, is_read, tmp_path):
    path = tmp_path / "state"
    path.write_text("x", "utf-8")
    with watch_files() as changed, open(path, mode, encoding="utf-8") as stream:  # noqa: PTH123
        stream.write("y")
    assert changed == {str(path): is_read}
