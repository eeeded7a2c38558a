"""What a number of images can tell apart, before any attack is run."""

from __future__ import annotations

import pytest

from robustbench_local.paired_tests import adjust_by_holm, compute_mcnemar
from robustbench_local.reports.analysis.phase_resolution import compute_phase_resolution
from robustbench_local.reports.analysis.resolution import (
    compute_class_resolution,
    compute_group_resolution,
    compute_resolution,
    list_resolutions,
)


@pytest.mark.parametrize("models", [2, 3, 6])
def test_the_stated_number_of_images_is_the_smallest_that_is_significant(models):
    deciding = compute_resolution(100, models).deciding_images
    equal = [compute_mcnemar([True] * 100, [True] * 100)] * (models * (models - 1) // 2 - 1)
    for count, significant in ((deciding - 1, False), (deciding, True)):
        test = compute_mcnemar([True] * 100, [False] * count + [True] * (100 - count))
        assert adjust_by_holm([test, *equal])[0].is_significant() is significant


@pytest.mark.parametrize(("images", "deciding"), [(5, None), (6, 6)])
def test_too_few_images_compare_nothing(images, deciding):
    assert compute_resolution(images, 2).deciding_images == deciding


def test_a_single_model_is_compared_with_none():
    resolution = compute_resolution(50, 1)
    assert resolution.deciding_images is None
    # the exact interval of 25 of 50 is 35.5% to 64.5%, that of 0 of 50 ends at 7.1%
    assert (
        str(resolution)
        == "50 images: 95% intervals reach up to 14 points to each side; 0 of 50 leaves up to 7.1%"
    )


def test_many_images_never_leave_nothing():
    assert (
        str(compute_resolution(50_000, 1))
        == "50,000 images: 95% intervals reach up to 0.4 points to each side; 0 of 50,000 leaves up to "
        "0.0074%"
    )
    assert "reach up to 0.1 points" in str(compute_resolution(10**7, 1))


def test_sentences_of_several_models():
    assert str(compute_resolution(5, 2)).endswith("; too few to compare 2 models")
    assert str(compute_resolution(16, 2)).endswith(
        "; two models differ significantly at 6 images to 0 or more"
    )
    assert str(compute_resolution(1, 2)).startswith("1 image: ")


def test_the_smallest_and_the_largest_number_are_listed():
    assert [row.images for row in list_resolutions([50, 16, 0, 32, 16], 2)] == [16, 50]
    assert [row.images for row in list_resolutions([16, 16], 2)] == [16]
    assert list_resolutions([0], 2) == []


def test_single_classes_say_less_than_all_together():
    assert compute_class_resolution([50, 0]) is None
    resolution = compute_class_resolution([12, 3, 0, 5])
    assert (resolution.classes, resolution.fewest_images, resolution.most_images) == (3, 3, 12)
    # the exact interval of 1 of 3 is 0.8% to 90.6%
    assert str(resolution) == (
        "3 classes of 3 to 12 images: the interval of one class reaches up to 45 points to each side"
    )
    assert str(compute_class_resolution([1, 1])).startswith("2 classes of 1 image: ")


def test_images_in_groups_say_what_likeness_leaves():
    resolution = compute_group_resolution(600, 40, 2)
    assert str(resolution) == (
        "600 images in 40 groups: 95% intervals are over groups and reach up to 4.1 points to each side if "
        "images of a group are independent, 16 points if they are alike; two models differ significantly at "
        "6 groups to 0 or more"
    )
    assert str(compute_group_resolution(50, 5, 2)).endswith("; too few groups to compare 2 models")
    assert str(compute_group_resolution(50, 5, 1)).endswith("if they are alike")


def test_attacks_on_different_numbers_of_images_are_resolved_together():
    resolution = compute_phase_resolution({"PGD-20": 600, "AutoAttack": 20, "FGSM": 600}, [60] * 10)
    assert resolution.attack_labels == (("PGD-20", "FGSM"), ("AutoAttack",))
    assert str(resolution) == (
        "two phases: PGD-20 and FGSM on 600 images, AutoAttack on 20 of them; if half of the images are "
        "robust to phase 1, and 9 in 10 of those to each later one, the 95% interval of the worst case "
        "reaches up to 17 points to each side (23 points with 20 images alone)"
    )
    assert compute_phase_resolution({"a": 100, "b": 50, "c": 10}, [10] * 10).images == (100, 50, 10)


def test_attacks_on_the_same_images_and_parts_that_are_not_random_have_no_phases():
    assert compute_phase_resolution({"PGD-20": 600, "AutoAttack": 600}, [60] * 10) is None
    assert compute_phase_resolution({"PGD-20": 600, "AutoAttack": 20}, [500, 100]) is None
