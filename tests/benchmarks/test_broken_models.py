"""The registry of sound and broken models: complete, buildable, and broken in the way that each kind says."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

import robustbench_local as rbl
from benchmarks.broken_models import networks
from benchmarks.broken_models.case import ModelCase
from benchmarks.broken_models.case_result import read_result
from benchmarks.broken_models.case_run import run_case
from benchmarks.broken_models.registry import (
    BROKEN_KINDS,
    PLAIN_SOUND_KINDS,
    SOUND_KINDS,
    find_model,
    list_models,
    list_quick_models,
)
from benchmarks.broken_models.study_table import is_blind_spot
from robustbench_local.errors import ModelError


@pytest.fixture
def embedded_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a machine without the folder of published checkpoints."""
    monkeypatch.setenv("RBL_SHARED_DATA", str(tmp_path / "absent"))


def read_margins(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    own = logits.gather(1, labels[:, None])
    return (own - logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1, keepdim=True)).squeeze(1)


def compute_slopes(case: ModelCase, n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and gradients of the margin."""
    model = case.build()
    images, labels = case.data(n)
    classifier = rbl.Classifier(model, num_classes=model.num_classes)
    with classifier.evaluation_mode():
        logits, _, slopes = classifier.compute_gradient(images, lambda z: read_margins(z, labels))
    return logits, slopes


def test_the_registry_is_complete_without_published_checkpoints(embedded_only):
    cases = list_models()
    assert sum(case.is_sound for case in cases) >= 17
    assert sum(not case.is_sound for case in cases) >= 40
    assert len({case.name for case in cases}) == len(cases)
    assert {case.kind for case in cases} == {
        kind.name for kind in (*SOUND_KINDS, *PLAIN_SOUND_KINDS, *BROKEN_KINDS)
    }
    assert all(case.expected and 0 < case.eps < 1 for case in cases)


def test_with_published_checkpoints_there_are_more(shared_data, monkeypatch):
    monkeypatch.setenv("RBL_SHARED_DATA", str(shared_data))
    names = {case.name.rpartition(" on ")[2] for case in list_models()}
    assert {"cifar10", "mnist", "gtsrb", "signs", "signs-at"} <= names


def check_answers(cases: Iterable[ModelCase]) -> None:
    for case in cases:
        images, labels = case.data(min(16, case.images))
        model = case.build()
        torch.manual_seed(0)  # some models answer at random
        with torch.no_grad():
            logits = rbl.Classifier(model, num_classes=model.num_classes)(images)
        assert logits.shape == (len(images), model.num_classes), case.name
        assert bool(logits.isfinite().all()), case.name
        assert float((logits.argmax(dim=1) == labels).float().mean()) >= case.clean_floor, case.name
        assert torch.equal((images * 255).round() / 255, images), case.name


HEAVY_KINDS = {"vision transformer", "ResNet-50", "autoencoder with graph", "autoencoder without graph"}


@pytest.mark.slow
def test_every_kind_builds_and_answers(embedded_only):
    check_answers({case.kind: case for case in list_models() if case.kind not in HEAVY_KINDS}.values())


@pytest.mark.parametrize(
    "kind",
    [
        "rounded input",
        "JPEG without BPDA",
        "zero backward",
        "rounded activations",
        pytest.param("sign activations", marks=pytest.mark.slow),  # it is trained first
        "rounded logits",
        "clipped logits",
        "table of test images",
    ],
)
def test_gradients_are_zero(embedded_only, kind):
    case = next(case for case in list_models() if case.kind == kind)
    assert not compute_slopes(case)[1].any()


@pytest.mark.parametrize(
    "kind",
    [
        "thresholded input",
        "thermometer code",
        "median outside torch",
        "numpy round trip",
        "detached features",
        "no_grad forward",
        "inference_mode forward",
        "label only",
        "majority of labels",
        "variation minimization",
        "bilateral filter without graph",
        "noise vote of 8",
    ],
)
def test_there_is_no_gradient_path(embedded_only, kind):
    case = next(case for case in list_models() if case.kind == kind)
    with pytest.raises(ModelError, match="no gradient path"):
        compute_slopes(case)


def test_wrong_slopes_are_wrong_in_the_way_they_say(embedded_only):
    _, right = compute_slopes(find_model("unchanged on signs"))
    _, flipped = compute_slopes(find_model("flipped backward on signs"))
    _, shuffled = compute_slopes(find_model("shuffled backward on signs"))
    _, tiny = compute_slopes(find_model("tiny backward on signs"))
    cosine = torch.nn.functional.cosine_similarity
    assert torch.allclose(flipped, -right)
    assert float(cosine(shuffled.flatten(1), right.flatten(1)).abs().max()) < 0.3
    assert 0 < float(tiny.abs().max()) < 1e-27


def test_outputs_are_what_they_say(embedded_only):
    plain, _ = compute_slopes(find_model("unchanged on signs"))
    large, _ = compute_slopes(find_model("logits x100 on signs"))
    shares, _ = compute_slopes(find_model("softmax output on signs"))
    assert torch.allclose(large, 100 * plain)
    assert torch.allclose(shares, plain.softmax(dim=1))


@pytest.mark.parametrize(
    "kind", ["random resize and pad", "noise, own generator", "dropout always on", "stochastic pruning"]
)
def test_random_models_answer_otherwise_each_time(embedded_only, kind):
    case = next(case for case in list_models() if case.kind == kind)
    model, (images, _) = case.build(), case.data(4)
    answers = [model(images) for _ in range(4)]
    assert not all(torch.equal(answers[0], other) for other in answers[1:])


def test_a_seed_taken_from_the_image_repeats_itself(embedded_only):
    model, images = (case := find_model("noise, seed from image on signs-gaussian")).build(), case.data(2)[0]
    assert torch.equal(model(images), model(images))
    moved = (images + 1e-4).clamp(0, 1)
    assert float((model(images) - model(moved)).abs().max()) > 0.1


def test_stateful_models_remember(embedded_only):
    case = find_model("cache of near images on signs")
    model, (images, _) = case.build(), case.data(2)
    first, near = model(images), (images + case.eps / 2).clamp(0, 1)
    assert torch.equal(model(near), first)
    assert not torch.allclose(case.build()(near), first)


def test_switches_switch(embedded_only):
    case = find_model("switch by gradient mode on signs")
    model, (images, _) = case.build(), case.data(2)
    assert not torch.allclose(model(images), model(images.clone().requires_grad_()))
    off_grid = find_model("switch off the 8-bit grid on signs").build()
    plain = find_model("unchanged on signs").build()
    assert torch.equal(off_grid(images), plain(images))
    moved = (images + 0.3 / 255).clamp(0, 1)
    assert float((off_grid(moved) - plain(moved)).abs().max()) > 0.1


@pytest.mark.slow
def test_published_networks_build_too(shared_data, monkeypatch):
    monkeypatch.setenv("RBL_SHARED_DATA", str(shared_data))
    check_answers(case for case in list_models() if not case.name.rpartition(" on ")[2].startswith("signs"))


def test_the_folder_beside_the_checkout_is_found(monkeypatch):
    monkeypatch.delenv("RBL_SHARED_DATA", raising=False)
    folder = networks.find_shared_folder()
    assert folder is None or (folder / "checkpoints").is_dir()
    assert "RBL_SHARED_DATA" not in os.environ


@pytest.mark.slow
def test_a_small_study_catches_the_broken_and_spares_the_sound(shared_data, monkeypatch, tmp_path):
    """The quick form of ``python -m benchmarks.broken_models``, with AutoAttack alone."""
    monkeypatch.setenv("RBL_SHARED_DATA", str(shared_data))
    cases = list_quick_models()
    assert sum(case.is_sound for case in cases) == 6
    assert sum(not case.is_sound for case in cases) == 12
    results = []
    for case in cases:
        run_case(case.name, tmp_path, ["autoattack-linf-8"], 8)
        results.append(read_result(case, tmp_path))
    alarms = {result.case.name: result.failed_diagnostics for result in results if result.case.is_sound}
    assert set(alarms.values()) == {()}, alarms
    broken = [result for result in results if not result.case.is_sound]
    assert [result.case.name for result in broken if is_blind_spot(result)] == []
    assert [result.case.name for result in broken if result.is_silent or result.gate == "pass"] == []


def test_waves_leave_the_class_and_turn_the_slope(embedded_only):
    plain, right = compute_slopes(find_model("unchanged on signs"))
    cosine = torch.nn.functional.cosine_similarity
    for kind in ("scaled by a ripple", "waves on the logits", "signs turned behind the stem"):
        logits, slopes = compute_slopes(find_model(f"{kind} on signs"))
        assert torch.equal(logits.argmax(dim=1), plain.argmax(dim=1))
        assert float(cosine(slopes.flatten(1), right.flatten(1)).abs().min()) < 0.9
    traced, slopes = compute_slopes(find_model("traced on signs-at"))
    assert torch.allclose(traced, compute_slopes(find_model("unchanged on signs-at"))[0], atol=1e-5)
    assert slopes.any()
