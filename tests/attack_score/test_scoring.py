"""The comparison: verified distances, failures and violations listed, weak attacks told from strong ones."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from robustbench_local.attack_score import contenders, scoring
from robustbench_local.attack_score.contenders import AttackRequest, Contender, fit_to_budget
from robustbench_local.attack_score.measurement import Measurement, measure_contender
from robustbench_local.attack_score.peers import PEERS, PeerLibrary
from robustbench_local.attack_score.scoring import ScoreOptions, score_attacks
from robustbench_local.attack_score.tables import list_notes, render_csv, render_markdown
from robustbench_local.attacks.minimum_norm.fmn import FMN
from robustbench_local.classifier import Classifier
from robustbench_local.data.dataset import as_dataset
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.planning.plan import EvaluationSubject
from robustbench_local.threats.threat_model import ThreatModel

THREAT = ThreatModel(norm="L2", eps=2.0)


def build_subject(count: int = 6) -> EvaluationSubject:
    """A linear classifier of two classes; the first image is misclassified."""
    weights = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    with torch.no_grad():
        network[1].weight.copy_(weights)
        network[1].bias.copy_(-weights.sum(dim=1) / 2)
    images = 0.3 + 0.4 * torch.rand(count, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    classifier = Classifier(network, num_classes=2, channels=3, name="linear")
    labels = classifier(images).argmax(dim=1)
    labels[0] = 1 - labels[0]
    return EvaluationSubject(
        id="linear", classifier=classifier, data=as_dataset((images, labels)), digest="linear", description={}
    )


def measure(subject: EvaluationSubject, candidates: Tensor) -> Measurement:
    """What comes of an attack that returns these images for the correctly classified ones."""
    contender = Contender(
        library="other", name="fixed", identity="", run=lambda request: (candidates, 3.0, 2.0)
    )
    return measure_contender(contender, subject.classifier, subject.data, THREAT, seed=0)


def nearest(subject: EvaluationSubject) -> Tensor:
    data = subject.data
    with subject.classifier.evaluation_mode():
        request = AttackRequest(
            classifier=subject.classifier, images=data.images[1:], labels=data.labels[1:],
            ids=data.ids[1:], threat=THREAT, seed=0,
        )  # fmt: skip
        [own] = contenders.list_own_contenders(["fmn"], "L2", max_distance=2.0, budget=60, version="test")
        return own.run(request)[0]


def test_distances_are_measured_and_labels_are_asked_for_again():
    subject = build_subject()
    candidates = nearest(subject)
    candidates[0] = subject.data.images[1]  # no success
    candidates[1, 0, 0, 0] = 1.5
    candidates[2, 0, 0, 0] = torch.nan
    candidates[3] += 1e-7 * torch.randn_like(candidates[3])
    found = measure(subject, candidates)
    assert found.distances[0] == 0.0
    assert [math.isfinite(distance) for distance in found.distances[1:]] == [False, False, False, True, True]
    expected = float((candidates[4].double() - subject.data.images[5].double()).norm())
    assert found.distances[5] == pytest.approx(expected, rel=2e-3)
    assert [image for image, _ in found.violations] == [subject.data.ids[2], subject.data.ids[3]]
    assert "leaves the box" in found.violations[0][1]
    assert "NaN" in found.violations[1][1]
    assert (found.forward, found.backward, found.calls) == (3.0, 2.0, 5.0)


def test_rounding_beyond_the_box_is_no_violation_but_more_is():
    subject = build_subject()
    white = torch.ones_like(subject.data.images[1:])
    assert measure(subject, white + 5e-7).violations == ()
    assert len(measure(subject, white + 2e-6).violations) == 5


def test_an_attack_that_raises_is_listed_and_ends_nothing(monkeypatch):
    def fail(request: AttackRequest):
        raise ZeroDivisionError("integer modulo by zero")

    broken = Contender(library="other", name="broken", identity="", run=fail)
    monkeypatch.setattr(scoring, "list_peer_contenders", lambda *_, **__: ([broken], ["ghost is absent"]))
    score = score_attacks([build_subject()], ScoreOptions(norm="L2", attacks=("fmn", "ddn"), budget=60))
    assert [row.attack for row in score.rows][-1] == "broken"
    assert score.rows[-1].optimality is None
    notes = "\n".join(list_notes(score))
    assert "other broken failed: ZeroDivisionError: integer modulo by zero." in notes
    assert "Missing from the comparison: ghost is absent." in notes
    assert "| other broken | failed |" in render_markdown(score)


def test_a_comparison_is_stored_and_read_again(tmp_path: Path, monkeypatch):
    options = ScoreOptions(norm="L2", attacks=("fmn", "deepfool"), libraries=("none",), budget=60)
    first = score_attacks([build_subject()], options, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(scoring, "measure_contender", None)  # nothing is attacked again
    again = score_attacks([build_subject()], options, folder=tmp_path)
    assert json.dumps(again.to_json()) == json.dumps(first.to_json())
    rows = list(csv.DictReader(io.StringIO(render_csv(first))))
    assert len(rows) == 2 * 6
    assert {row["attack"] for row in rows} == {"fmn", "deepfool"}
    with pytest.raises(TypeError):  # another budget is another attack
        score_attacks([build_subject()], replace(options, budget=80), folder=tmp_path)


def test_the_budget_bounds_the_passes_of_every_attack_with_steps():
    threat = ThreatModel(norm="L2", eps=3.0)
    for budget in (90, 200):
        fitted = fit_to_budget(FMN(), threat, budget)
        assert budget - 3 <= sum(fitted.estimate_cost(threat)) <= budget
    assert fit_to_budget(FMN(), threat, 1).steps == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ScoreOptions(norm="L2", attacks=("fmm",)), "there is no attack 'fmm'"),
        (ScoreOptions(norm="L2", attacks=("ead",)), "ead is no minimum-norm attack under L2"),
        (ScoreOptions(norm="L2", attacks=("pgd",)), "pgd is no minimum-norm attack under L2"),
        (ScoreOptions(norm="L2", libraries=("fulbox",)), "there is no library 'fulbox'"),
        (ScoreOptions(norm="L2", libraries=("ghost",)), "ghost is not installed"),
        (ScoreOptions(norm="L2", budget=0), "a budget must be at least 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_compared_is_refused_in_one_line(options: ScoreOptions, message: str, monkeypatch):
    ghost = PeerLibrary("ghost", "with_ghost", "ghost_that_is_nowhere", "ghost", "ghost")
    monkeypatch.setattr(contenders, "PEERS", (*PEERS, ghost))
    with pytest.raises(ConfigError, match=message):
        score_attacks([build_subject()], options)


def test_a_library_that_is_absent_or_broken_is_named(monkeypatch):
    ghost = PeerLibrary("ghost", "with_ghost", "ghost_that_is_nowhere", "ghost", "ghost-attacks")
    broken = PeerLibrary("broken", "with_ghost", "torch", "torch", "torch")
    monkeypatch.setattr(contenders, "PEERS", (ghost, broken))
    found, missing = contenders.list_peer_contenders((), "L2", budget=100)
    assert found == []
    assert missing[0].startswith("broken cannot be imported: ")
    assert missing[1] == "ghost is not installed: pip install ghost-attacks"


def test_every_adapter_of_an_installed_library_has_the_tables():
    for library in PEERS:
        if library.name in {"torchattacks", "pyautoattack"} and library.is_installed():
            assert library.load_methods()
            assert isinstance(library.load_minimum_norm_attacks("L2"), dict)
