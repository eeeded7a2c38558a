"""Mistakes about what each output of a model stands for."""

from __future__ import annotations

import pytest
import torch
import yaml

from robustbench_local.evaluation.probes.class_orders import (
    MAX_LISTED_CLASSES,
    ClassOrder,
    assign_classes,
    can_assign_classes,
    find_better_order,
    list_class_orders,
)

NAMES = ("zebra", "cat", "dog", "ant")


def make_labels(classes: int, n: int) -> torch.Tensor:
    return torch.arange(n) % classes


@pytest.mark.parametrize(
    ("classes", "outputs", "words"),
    [
        (2, torch.tensor([1, 0]), "two classes exchanged"),
        (20, torch.arange(1, 21) % 21, "background class"),
        (20, torch.arange(-1, 19).clamp(min=0), "first class left out"),
        (20, torch.tensor(sorted(range(20), key=str)).argsort(), "sorted as text"),
        (20, torch.tensor(sorted(range(20), key=str)), "sorted as text"),
    ],
)
def test_a_usual_mistake_is_named(classes, outputs, words):
    """``outputs`` is the output that each class is given."""
    labels = make_labels(classes, 60)
    predictions = outputs[labels]
    predictions[predictions >= classes] = -1
    found = find_better_order(predictions, labels, classes, [str(index) for index in range(classes)])
    assert found is not None
    assert found.kind == "classes"
    assert words in found.form
    assert found.correct >= 54
    assert find_better_order(labels, labels, classes, [str(index) for index in range(classes)]) is None


def test_the_names_are_given_in_the_order_of_the_outputs():
    labels = make_labels(4, 40)
    order = torch.tensor([2, 0, 3, 1])
    found = find_better_order(order.argsort()[labels], labels, 4, NAMES)
    assert found is not None
    assert found.is_yaml
    assert yaml.safe_load(found.remedy) == {"class_names": ["dog", "zebra", "ant", "cat"]}
    assert found.form == "its classes in another order"
    alphabetical = torch.tensor(sorted(range(4), key=lambda index: NAMES[index]))
    found = find_better_order(alphabetical.argsort()[labels], labels, 4, NAMES)
    assert found is not None
    assert "alphabetical" in found.form
    assert yaml.safe_load(found.remedy)["class_names"] == sorted(NAMES)


def test_without_names_the_remedy_is_to_give_some_or_numbers():
    order = ClassOrder("x", torch.tensor([1, 0, 2]))
    assert order.format_remedy(())[1] is False
    assert order.format_remedy(("0", "1", "2")) == ("class_names: ['1', '0', '2']", True)
    shifted = ClassOrder("x", torch.tensor([-1, 0, 1]))
    assert yaml.safe_load(shifted.format_remedy(("a", "b", "c"))[0])["class_names"] == [
        "background",
        "a",
        "b",
    ]
    many = ClassOrder("x", torch.arange(MAX_LISTED_CLASSES + 1))
    assert not many.format_remedy([f"n{index}" for index in range(MAX_LISTED_CLASSES + 1)])[1]


@pytest.mark.parametrize(
    ("classes", "images", "expected"),
    [(4, 16, True), (4, 15, False), (2, 100, False), (64, 256, True), (65, 1000, False)],
)
def test_any_order_is_looked_for_with_enough_images_of_few_classes(classes, images, expected):
    assert can_assign_classes(classes, images) is expected


def test_random_answers_fit_no_order_on_images_held_out():
    labels = make_labels(10, 256)
    predictions = torch.randint(10, (256,), generator=torch.Generator().manual_seed(0))
    _, correct = assign_classes(predictions, labels, 10)
    assert int(correct.sum()) < 60
    assert find_better_order(predictions, labels, 10, ()) is None


@pytest.mark.parametrize(("right", "found"), [(128, True), (126, False)])
def test_an_order_that_was_looked_for_is_right_on_half_of_the_images(right, found):
    """``right`` images of 256 follow another order; the rest are given no class."""
    labels = make_labels(8, 256)
    order = torch.tensor([4, 6, 0, 7, 2, 1, 3, 5])
    predictions = order[labels]
    predictions[right:] = -1
    assert (find_better_order(predictions, labels, 8, ()) is not None) is found


def test_the_list_has_no_order_that_changes_nothing():
    assert {order.form for order in list_class_orders(4, ("0", "1", "2", "3"))} == {
        "its first output as a background class",
        "the data's first class left out",
    }
