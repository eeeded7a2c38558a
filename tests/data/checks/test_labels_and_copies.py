"""Confident learning as cleanlab has it, probabilities, and the limits of likeness."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robustbench_local.data.checks import copy_checks, label_checks, near_duplicates
from robustbench_local.data.checks.confident_learning import find_confident_classes
from robustbench_local.data.checks.image_survey import SurveyedImages
from robustbench_local.data.checks.label_probabilities import compute_label_probabilities


def _make_probabilities(seed=0, count=300, classes=4):
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, classes, count)
    logits = generator.normal(0, 1, (count, classes))
    logits[np.arange(count), truth] += 2.5
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = truth.copy()
    labels[:30] = (labels[:30] + 1) % classes
    return probabilities, labels


def test_thresholds_of_the_paper_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.85, 0.15], [0.6, 0.4]])
    labels = np.array([0, 0, 1, 1, 1])
    # thresholds: (0.9 + 0.7) / 2 = 0.8 and (0.8 + 0.15 + 0.4) / 3 = 0.45
    assert find_confident_classes(probabilities, labels).tolist() == [0, 0, 1, 0, 1]


@pytest.mark.extra
@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_images_as_cleanlab(seed):
    cleanlab_filter = pytest.importorskip("cleanlab.filter", reason="cleanlab is not installed")
    probabilities, labels = _make_probabilities(seed)
    theirs = cleanlab_filter.find_label_issues(
        labels, probabilities, filter_by="confident_learning", n_jobs=1
    )
    ours = find_confident_classes(probabilities, labels) != labels
    assert ours.sum() > 20
    assert (ours == theirs).all()


def test_probabilities_are_out_of_sample_and_calibrated():
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 40)
    features = torch.from_numpy(generator.normal(0, 1, (120, 6)))
    features[np.arange(120), labels] += 5
    told = compute_label_probabilities(features, labels, 3, seed=0)
    assert np.allclose(told.sum(axis=1), 1)
    assert (told.argmax(axis=1) == labels).mean() > 0.95
    noise = torch.from_numpy(generator.normal(0, 1, (120, 6)))
    blind = compute_label_probabilities(noise, labels, 3, seed=0)
    assert (blind.argmax(axis=1) == labels).mean() < 0.6  # an image that was fitted would be right
    assert blind.max(axis=1).mean() < 0.6


def _survey(probabilities, labels, monkeypatch):
    monkeypatch.setattr(label_checks, "compute_label_probabilities", lambda *_args, **_kwargs: probabilities)
    count = len(labels)
    return SurveyedImages(
        ids=[str(row) for row in range(count)], splits=["train"] * count,
        labels=["abc"[label] for label in labels], digests=[], groups=[],
        thumbnails=torch.zeros(count, 3, 32, 32, dtype=torch.uint8),
        features=torch.zeros(count, 2), is_blank=[False] * count,
    )  # fmt: skip


@pytest.mark.parametrize(("lead", "number"), [(0.59, 0), (0.61, 1)])
def test_lead_from_which_a_label_is_likely_wrong(lead, number, monkeypatch):
    labels = np.repeat([0, 1], 10)
    probabilities = np.where(labels[:, None] == [0, 1], 0.7, 0.3)
    probabilities[0] = [0.5 - lead / 2, 0.5 + lead / 2]
    findings, share = label_checks.check_labels(_survey(probabilities, labels, monkeypatch), seed=0)
    assert len(findings) == number
    assert (share.n, round(share.value * 20)) == (20, 19)


@pytest.mark.parametrize(("right", "is_judged"), [(11, False), (12, True)])
def test_features_that_tell_too_little_judge_no_label(right, is_judged, monkeypatch):
    labels = np.repeat([0, 1], 10)
    probabilities = np.where(labels[:, None] == [0, 1], 0.9, 0.1)
    probabilities[right:] = probabilities[right:, ::-1]
    findings, _ = label_checks.check_labels(_survey(probabilities, labels, monkeypatch), seed=0)
    assert any(row.check == "not-checked" and "--features" in row.detail for row in findings) != is_judged


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([0] * 9, "fewer than two classes"),
        ([0, 1, 2], "fewer than two classes"),
        ([0] * 5 + [1], "labels of b"),
    ],
)
def test_too_few_images_are_not_judged(labels, reason, monkeypatch):
    findings, share = label_checks.check_labels(_survey(None, labels, monkeypatch), seed=0)
    assert share is None
    assert any(reason in row.detail for row in findings)


def test_sizes_of_data_whose_labels_are_checked(monkeypatch):
    monkeypatch.setattr(label_checks, "MAX_LABEL_IMAGES", 9)
    labels = np.repeat([0, 1], 5)
    findings, share = label_checks.check_labels(_survey(None, labels, monkeypatch), seed=0)
    assert share is None
    assert "more than 9; set a limit" in findings[0].detail


def _photograph(seed):
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=32, mode="bicubic", align_corners=False).clamp(0, 1)[
        0
    ]


def test_copies_are_found_and_other_photographs_are_not():
    photographs = torch.stack([_photograph(seed) for seed in range(40)])
    dark = 0.5 * photographs[3]
    part = torch.nn.functional.interpolate(photographs[5][None, :, 2:29, 4:31], size=32, mode="bilinear")[0]
    noise = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(1))
    noisy = (photographs[7] + 0.03 * noise).clamp(0, 1)
    flat = torch.full((3, 32, 32), 0.3)
    images = torch.cat([photographs, torch.stack([dark, part, noisy, flat, flat + 0.001])])
    pairs = near_duplicates.find_near_duplicates((images * 255).round().byte())
    assert {(pair.first, pair.second) for pair in pairs} == {(3, 40), (5, 41), (7, 42)}
    assert pairs[0].likeness > 0.999
    assert near_duplicates.find_near_duplicates(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)) == []


@pytest.mark.parametrize(("likeness", "number"), [(0.979, 0), (0.981, 1)])
def test_likeness_from_which_images_are_near_duplicates(likeness, number, monkeypatch):
    monkeypatch.setattr(
        near_duplicates, "_align_images", lambda first, _second: torch.full((len(first),), likeness)
    )
    images = torch.stack([_photograph(1), _photograph(1)])
    assert len(near_duplicates.find_near_duplicates((images * 255).byte())) == number


@pytest.mark.parametrize(
    ("likeness", "check"),
    [(0.989, "possible-duplicate-across-splits"), (0.991, "near-duplicate-across-splits")],
)
def test_likeness_from_which_a_copy_across_splits_is_an_error(likeness, check, monkeypatch):
    pair = near_duplicates.DuplicatePair(0, 1, likeness)
    monkeypatch.setattr(copy_checks, "find_near_duplicates", lambda *_: [pair])
    images = SurveyedImages(
        ids=["a", "b"], splits=["train", "test"], labels=["x", "x"], digests=[b"1", b"2"], groups=["", ""],
        thumbnails=torch.zeros(2, 3, 32, 32), features=None, is_blank=[False, False],
    )  # fmt: skip
    [finding] = copy_checks.check_copies(images)
    assert (finding.check, finding.image, finding.other_image) == (check, "a", "b")
    assert finding.is_exclusion_suggested == (likeness > 0.99)
