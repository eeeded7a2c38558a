"""Models that may reject: attacks on tiny detectors against an exhaustive search, and every declaration."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import robustbench_local as rbl
from robustbench_local.attacks import make_attack
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.abstention import (
    append_rejection_by_score,
    merge_rejection,
)
from robustbench_local.classifier.abstention_declaration import parse_abstention
from robustbench_local.data.dataset import Dataset
from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.evaluation.harness.attack_job import AttackJob
from robustbench_local.evaluation.harness.verify import verify
from robustbench_local.threats.threat_model import ThreatModel

EPS = 0.15
BALL = ThreatModel(norm="Linf", eps=EPS)


class Detector(nn.Module):
    """Three classes on two pixels; images within a width of the borders between them are rejected."""

    def __init__(self, width, form="last"):
        super().__init__()
        self.width, self.form = width, form

    def forward(self, images):
        x, y = images.flatten(1).unbind(1)
        scores = torch.stack([4 * x, 4 * y, 3.4 - 2 * x - 2 * y], dim=1)
        first, second = scores.topk(2, dim=1).values.unbind(1)
        reject = first + 2 * (self.width - (first - second))
        if self.form == "last":
            return torch.cat([scores, reject[:, None]], dim=1)
        if self.form == "first":
            return torch.cat([reject[:, None], scores], dim=1)
        if self.form == "nan":
            return torch.where((reject >= first)[:, None], torch.nan, scores)
        if self.form == "flag":
            return scores, reject < first
        return {"logits": scores, "accept": 0.5 - (reject - first)}


DECLARATIONS = {
    "last": {"abstain": "last"},
    "first": {"abstain": 0},
    "nan": {"abstain": "nan"},
    "flag": {"abstain": {"output": 1}, "output": 0},
    "score": {"abstain": {"output": "accept", "threshold": 0.5}, "output": "logits"},
}


def build_classifier(width, form="last"):
    return Classifier(Detector(width, form), num_classes=3, **DECLARATIONS[form])


@pytest.fixture(scope="module")
def data():
    points = torch.tensor(
        [[0.9, 0.2], [0.7, 0.45], [0.2, 0.9], [0.4, 0.75], [0.1, 0.1], [0.3, 0.35], [0.62, 0.55], [0.95, 0.9]]
    )
    with torch.no_grad():
        labels = Detector(-1.0)(points[:, None, None])[:, :3].argmax(dim=1)
    return Dataset(
        images=points[:, None, None, :].contiguous(),
        labels=labels,
        ids=tuple("abcdefgh"),
        class_names=("0", "1", "2"),
        name="two pixels",
    )


def search_exhaustively(classifier, data, targets=()):
    """Ids of clean-correct images with an accepted, misclassified point on a fine grid of the ball."""
    steps = torch.linspace(-EPS, EPS, 41)
    offsets = torch.tensor(list(itertools.product(steps, steps)))
    broken = set()
    with torch.no_grad():
        for image, label, name in zip(data.images, data.labels, data.ids, strict=True):
            if int(classifier(image[None]).argmax()) != int(label):
                continue
            answers = classifier((image.flatten() + offsets).clamp(0, 1)[:, None, None]).argmax(dim=1)
            wanted = [c for c in range(3) if c != int(label) and (not targets or c in targets)]
            if torch.isin(answers, torch.tensor(wanted)).any():
                broken.add(name)
    return broken


def run(classifier, data, attack="apgd", threat=BALL, **parameters):
    job = AttackJob(
        key="k",
        classifier=classifier,
        data=data,
        threat=threat,
        seed=1,
        attack=make_attack(attack, parameters),
    )
    with classifier.evaluation_mode():
        batch = job.run(list(range(len(data))))
    batch.agreement.check_agreement("detector")
    return batch.outcomes


@pytest.mark.parametrize(
    ("width", "form"),
    [
        (0.1, "last"),
        (0.35, "score"),
        *(
            pytest.param(width, form, marks=pytest.mark.slow)
            for width, form in itertools.product((-1.0, 0.1, 0.35, 0.8), ("last", "first", "score"))
            if (width, form) not in {(0.1, "last"), (0.35, "score")}
        ),
    ],
)
def test_an_attack_finds_what_an_exhaustive_search_finds(data, width, form):
    classifier = build_classifier(width, form)
    rows = run(classifier, data, loss="margin", steps=60)
    expected = search_exhaustively(classifier, data)
    assert {row.image for row in rows if row.broken} == expected
    for row in rows:
        assert not (row.abstained and row.broken)
        if row.abstained and row.clean_correct:
            assert row.adversarial_prediction == 3


def test_the_detectors_differ_in_what_they_protect(data):
    broken = [len(search_exhaustively(build_classifier(s), data)) for s in (-1.0, 0.35, 0.8)]
    assert broken[0] > broken[2]
    rejected = [row for row in run(build_classifier(0.8), data) if row.status == "clean-wrong"]
    assert rejected
    assert all(row.abstained and row.clean_prediction == 3 for row in rejected)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["nan", "flag"])
def test_where_rejection_has_no_gradient_scores_are_searched(data, form):
    classifier = build_classifier(0.1, form)
    rows = run(classifier, data, "square", queries=400)
    broken = {row.image for row in rows if row.broken}
    assert broken
    assert broken <= search_exhaustively(classifier, data)


@pytest.mark.parametrize("target", [0, *(pytest.param(t, marks=pytest.mark.slow) for t in (1, 2))])
def test_a_targeted_attack_needs_an_accepted_target(data, target):
    classifier = build_classifier(0.1)
    threat = ThreatModel(norm="Linf", eps=EPS, targets=(target,))
    keep = (data.labels != target).nonzero().flatten()
    chosen = data.select_images(keep)
    rows = run(classifier, chosen, threat=threat, loss="margin", steps=60)
    assert {row.image for row in rows if row.broken} == search_exhaustively(classifier, chosen, (target,))
    assert not any(row.moved_elsewhere and row.abstained for row in rows)


@pytest.mark.parametrize("form", DECLARATIONS)
def test_every_form_gives_the_same_verdict_on_each_image(data, form):
    reference, classifier = build_classifier(0.35), build_classifier(0.35, form)
    points = torch.rand(200, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(classifier(points).argmax(dim=1), reference(points).argmax(dim=1))
    assert classifier.num_classes == 3
    assert classifier(points).shape == (200, 4)
    assert (
        classifier.compute_digest()
        != build_classifier(0.35, "nan" if form != "nan" else "last").compute_digest()
    )


def test_merged_logits_leave_the_label_exactly_where_the_attack_succeeds():
    logits = torch.randn(500, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 4, (500,), generator=torch.Generator().manual_seed(1))
    winner = logits.argmax(dim=1)
    success = (winner != labels) & (winner != 4)
    assert torch.equal(merge_rejection(logits, labels).argmax(dim=1) != labels, success)


def test_a_score_at_the_threshold_accepts_and_one_below_rejects():
    scores = torch.tensor([[1.0, 2.0]]).expand(3, 2)
    accepting = torch.tensor([0.5, 0.5 - 1e-7, 0.9])
    answers = append_rejection_by_score(scores, accepting, 0.5).argmax(dim=1)
    assert answers.tolist() == [1, 2, 1]


@pytest.mark.parametrize("declared", ["first", -1, True, {"output": 1, "limit": 3}, {"output": None}, 0.5])
def test_a_declaration_that_cannot_be_read_is_refused(declared):
    with pytest.raises(ConfigError, match="abstain"):
        parse_abstention(declared)


def test_an_undeclared_rejecting_output_is_named(data):
    classifier = Classifier(Detector(1.0), num_classes=3, name="detector")
    with pytest.raises(ModelError) as caught:
        classifier(data.images)
    assert "abstain: last" in str(caught.value)


def test_a_rejecting_output_beyond_the_last_is_refused():
    Classifier(Detector(1.0), num_classes=2, abstain=2)
    with pytest.raises(ConfigError, match="abstain: 3 is no output of a model with 2 classes"):
        Classifier(Detector(1.0), num_classes=2, abstain=3)
    with pytest.raises(ConfigError, match="Write last, or an index of 0 to 42"):
        rbl.load_classifier("zoo:signs-plain", abstain=99)


def test_a_named_class_that_rejects_is_named_in_a_note():
    """A class of the data would protect every image that is classified as it."""
    classifier = rbl.load_classifier("zoo:signs-plain", abstain="last")
    assert classifier.num_classes == len(classifier.class_names) == 42
    assert any("'End of no passing by vehicles" in note and "rejecting" in note for note in classifier.notes)
    assert not any("reject" in note for note in rbl.load_classifier("zoo:signs-plain").notes)


def test_a_success_whose_8_bit_image_is_rejected_does_not_succeed_in_8_bits():
    class Fussy(nn.Module):
        """Rejects 8-bit images, and answers class 1 to all others."""

        def forward(self, images):
            steps = 255 * images.flatten(1)
            is_rounded = ((steps - steps.round()).abs() < 1e-3).all(dim=1).float()
            return torch.stack([torch.zeros(len(images)), torch.ones(len(images)), 2 * is_rounded], dim=1)

    classifier = Classifier(Fussy(), num_classes=2, abstain="last")
    originals = torch.full((2, 1, 1, 2), 100 / 255)
    candidates = originals + torch.tensor([0.3, 0.4]).view(2, 1, 1, 1) / 255
    with classifier.evaluation_mode():
        verified = verify(classifier, originals, torch.zeros(2, dtype=torch.int64), candidates, BALL)
    assert verified.broken.tolist() == [True, True]
    assert verified.broken_8bit == (False, False)
