"""AutoAttack: the published one, behind our contract and without its side effects."""

from __future__ import annotations

import logging
import random
import sys
import warnings

import numpy as np
import pyautoattack
import pytest
import torch
from attack_samples import Sample, build_classifier, build_linear_sample, train_sample
from pyautoattack import checks

from robustbench_local.attacks.adapters.libraries import ReferenceAutoAttack
from robustbench_local.attacks.core.losses import compute_margin
from robustbench_local.errors import DataError, ThreatError
from robustbench_local.threats.lp_ball import compute_norms
from robustbench_local.threats.threat_model import ThreatModel

EASY = ThreatModel(norm="Linf", eps="64/255")
"""Everything breaks in the first stage: fast."""
ATTACK = ReferenceAutoAttack()


@pytest.fixture(scope="module")
def some(small: Sample) -> Sample:
    return small.select_images(torch.arange(10))


def direct(sample: Sample, threat: ThreatModel) -> torch.Tensor:
    """What pyautoattack itself returns, called as its own documentation does."""
    seed = sample.build_stream(ATTACK).compute_batch_seed() & 0x7FFFFFFF
    count = min(9, sample.classifier.num_classes - 1)
    with torch.random.fork_rng([]):
        attack = pyautoattack.AutoAttack(
            sample.classifier.as_module().eval(), norm=threat.norm, eps=threat.eps, seed=seed
        )
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = count
        candidates, _ = attack.run_standard_evaluation(sample.images, sample.labels, batch_size=250)
    return candidates


def test_easy_images_are_broken_within_ball_and_box(some: Sample):
    before = some.images.clone()
    candidates = some.attack(ATTACK, EASY)
    assert torch.equal(some.images, before)
    assert some.find_adversarial(candidates, EASY).all()
    assert (compute_norms(candidates - before, "Linf") <= EASY.eps + 1e-6).all()
    assert (candidates >= 0).all()
    assert (candidates <= 1).all()
    assert torch.equal(candidates, some.attack(ATTACK, EASY))


@pytest.mark.slow
@pytest.mark.parametrize(
    "threat", [ThreatModel(norm="Linf", eps="12/255"), ThreatModel(norm="L2", eps=0.6)], ids=str
)
def test_it_is_pyautoattack_bit_for_bit(small: Sample, threat: ThreatModel):
    sample = small.select_images(torch.arange(6))
    ours = sample.attack(ATTACK, threat)
    with sample.classifier.evaluation_mode():  # for their order of the weights, too
        theirs = direct(sample, threat)
    assert torch.equal(ours, theirs)
    assert 1 <= int(sample.find_adversarial(ours, threat).sum()) <= 5


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_with_two_or_three_classes_linear_margins_are_found_exactly(classes: int, norm: str):
    # with three classes the nearest border is the nearest of two hyperplanes
    generator = torch.Generator().manual_seed(classes)
    weights = torch.randn(classes, 75, generator=generator)
    images = 0.5 + 0.2 * (torch.rand(10, 3, 5, 5, generator=generator) - 0.5)
    sample = build_linear_sample(weights, -(weights @ images.flatten(1).mean(dim=0)), images)
    eps = 0.005 if norm == "Linf" else 0.03
    distances = []
    for image, label in zip(images.flatten(1), sample.labels, strict=True):
        logits = weights @ image + sample.classifier.model[1].bias.detach()
        gaps = [
            (logits[label] - logits[k])
            / torch.linalg.vector_norm(weights[label] - weights[k], 1 if norm == "Linf" else 2)
            for k in range(classes)
            if k != label
        ]
        distances.append(min(gaps))
    reachable = torch.stack(distances) < eps
    assert 2 <= int(reachable.sum()) <= 8
    threat = ThreatModel(norm=norm, eps=eps)
    assert torch.equal(sample.find_adversarial(sample.attack(ATTACK, threat), threat), reachable)


@pytest.mark.slow
def test_an_image_that_survives_costs_what_the_plan_says():
    sample = train_sample(classes=10, count=2)
    threat = ThreatModel(norm="Linf", eps=1e-4)
    sample.classifier.take_external_passes()
    sample.attack(ATTACK, threat)
    spent = [total / len(sample.images) for total in sample.classifier.external_passes]
    promised = ATTACK.estimate_cost(threat)
    assert promised[0] * 0.99 <= spent[0] <= promised[0]
    assert spent[1] == promised[1]


@pytest.mark.parametrize(
    ("classes", "stages", "targets"),
    [
        (2, ["apgd-ce", "fab-t", "square"], 1),
        (3, ["apgd-ce", "apgd-dlr", "fab-t", "square"], 2),
        (4, ["apgd-ce", "apgd-t", "fab-t", "square"], 3),
        (10, ["apgd-ce", "apgd-t", "fab-t", "square"], 9),
        (43, ["apgd-ce", "apgd-t", "fab-t", "square"], 9),
    ],
)
def test_stages_and_targets_fit_the_number_of_classes(
    monkeypatch, classes: int, stages: list[str], targets: int
):
    seen = {}

    def watched(attack, images, labels, *, batch_size):
        seen.update(stages=attack.attacks_to_run, apgd=attack.apgd_targeted.n_target_classes)
        seen.update(
            fab=attack.fab.n_target_classes, restarts=attack.apgd.n_restarts, queries=attack.square.n_queries
        )
        return images, labels

    monkeypatch.setattr(pyautoattack.AutoAttack, "run_standard_evaluation", watched)
    sample = Sample(
        build_classifier(
            lambda images: images.flatten(1).sum(1, keepdim=True) * torch.ones(classes), classes
        ),
        torch.rand(2, 1, 4, 4),
        torch.tensor([0, 0]),
    )
    sample.attack(ATTACK, EASY)
    assert seen == {"stages": stages, "apgd": targets, "fab": targets, "restarts": 1, "queries": 5000}
    note = ATTACK.describe_caveats(sample.classifier, EASY)
    assert note == "" if classes >= 4 else all(stage in note for stage in [str(classes), *stages])


def test_nothing_global_is_left_changed(some: Sample, capfd, caplog):
    def tracer(*_):
        return None

    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    functions = checks.check_dynamic, checks.check_randomized
    counted = dict(checks.funcs)
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        some.attack(ATTACK, EASY)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])
    assert (checks.check_dynamic, checks.check_randomized) == functions
    assert checks.funcs == counted
    assert not logging.getLogger("auto-attack").disabled
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_what_was_swapped_comes_back_after_an_error_too(some: Sample, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("out of luck")

    functions, state = (checks.check_dynamic, checks.check_randomized), torch.get_rng_state()
    monkeypatch.setattr(pyautoattack.AutoAttack, "run_standard_evaluation", fail)
    with pytest.raises(RuntimeError, match="out of luck"):
        some.attack(ATTACK, EASY)
    assert (checks.check_dynamic, checks.check_randomized) == functions
    assert not logging.getLogger("auto-attack").disabled
    assert torch.equal(torch.get_rng_state(), state)


def test_no_images_and_no_budget_spend_nothing(some: Sample):
    some.classifier.take_external_passes()
    assert some.select_images(torch.arange(0)).attack(ATTACK, EASY).shape == (0, 3, 8, 8)
    nothing = ThreatModel(norm="L2", eps=0)
    assert torch.equal(some.attack(ATTACK, nothing), some.images)
    assert ATTACK.estimate_cost(nothing) == (0, 0)
    assert some.classifier.external_passes == (0, 0)


def test_images_too_small_for_its_square_are_refused():
    tiny = Sample(
        build_classifier(lambda images: images.flatten(1)[:, :4], 4),
        torch.rand(1, 1, 4, 9),
        torch.tensor([0]),
    )
    with pytest.raises(DataError, match="needs images of at least 5 x 5 pixels under L2, these are 4 x 9"):
        tiny.attack(ATTACK, ThreatModel(norm="L2", eps=0.1))


def test_targets_are_refused(some: Sample):
    with pytest.raises(ThreatError, match="ReferenceAutoAttack does not support the goal 'targeted'"):
        ATTACK.check_support(ThreatModel(norm="Linf", eps=0.1, targets=(1,)), some.classifier)
    assert not ReferenceAutoAttack.per_image


def test_an_answer_that_is_not_finite_is_shown_and_spoils_no_other_image(some: Sample):
    def forward(images: torch.Tensor) -> torch.Tensor:
        logits = some.classifier.model(images)
        return torch.where((images[:, 0, 0, 0] > 0.9)[:, None], torch.nan, logits)

    images = some.images.clone()
    images[:, 0, 0, 0] = images[:, 0, 0, 0].clamp_max(0.6)
    images[4, 0, 0, 0] = 0.88
    sample = Sample(build_classifier(forward, 5), images, some.labels)
    with torch.no_grad():
        labels = sample.classifier(images).argmax(dim=1)
    sample = Sample(sample.classifier, images, labels)
    candidates = sample.attack(ATTACK, EASY)
    assert torch.isfinite(candidates).all()
    assert (compute_norms(candidates - images, "Linf") <= EASY.eps + 1e-6).all()
    with torch.no_grad():
        logits = sample.classifier(candidates)
    assert not torch.isfinite(logits[4]).all()
    others = torch.arange(10) != 4
    assert (compute_margin(logits, labels)[others] > 0).all()
    assert torch.isfinite(logits[others]).all()


def test_warnings_of_the_library_do_not_become_errors(some: Sample):
    probabilities = Sample(
        build_classifier(lambda x: some.classifier.model(x).softmax(1), 5), some.images, some.labels
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert probabilities.find_adversarial(probabilities.attack(ATTACK, EASY), EASY).all()
