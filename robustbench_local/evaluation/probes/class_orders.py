"""Usual mistakes about what each output of a model stands for, tried on answers that are already known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import yaml
from torch import Tensor

from robustbench_local.evaluation.probes.form_comparison import NO_CLASS, compare_form
from robustbench_local.store.preprocessing_record import BetterForm

MAX_ASSIGNED_CLASSES = 64
"""Largest number of classes of which any order is looked for."""
MIN_IMAGES_PER_CLASS = 4
"""Images for each class from which on any order of the classes is looked for."""
MAX_LISTED_CLASSES = 50
"""Largest number of classes whose names are written out as a remedy."""
MIN_ORDER_ACCURACY = 0.5
"""Clean accuracy from which on an order that was looked for is reported: some fits any answers better."""
BACKGROUND_NAME = "background"
"""Name of the output that stands for no class."""


@dataclass(frozen=True)
class ClassOrder:
    """A guess at what the outputs of a model stand for."""

    form: str
    """The order, in words that follow "with"."""
    classes: Tensor
    """(K,), the class of the data that each output stands for, or `NO_CLASS`."""

    def find_correct(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """Return which predictions, (N,), are correct with this order; a prediction of -1 never is."""
        classes = self.classes[predictions.clamp(min=0)]
        return (classes == labels) & (predictions >= 0)

    def format_remedy(self, names: Sequence[str]) -> tuple[str, bool]:
        """Return what to do, and whether it is a key for the model's entry in a grid file.

        Args:
            names: Names of the data's classes, one for each output; numbers where they have no names.
        """
        classes = self.classes.tolist()
        has_names = len(names) == len(classes) and all(names)
        if has_names and classes.count(NO_CLASS) <= 1 and len(classes) <= MAX_LISTED_CLASSES:
            written = [BACKGROUND_NAME if index == NO_CLASS else names[index] for index in classes]
            line = yaml.safe_dump(
                written, default_flow_style=True, allow_unicode=True, width=float("inf"), sort_keys=False
            )
            return f"class_names: {line.strip()}", True
        return "give the data and the model class_names, by which labels are matched", False


def list_class_orders(num_classes: int, names: Sequence[str]) -> list[ClassOrder]:
    """List the usual mistakes about a model's outputs.

    Args:
        num_classes: K, the number of outputs.
        names: Names of the data's classes.
    """
    indices = torch.arange(num_classes)
    if num_classes == 2:
        return [ClassOrder("its two classes exchanged", indices.flip(0))]
    onward = torch.cat([indices[1:], torch.tensor([NO_CLASS])])
    orders = [
        ClassOrder(
            "its first output as a background class", torch.cat([torch.tensor([NO_CLASS]), indices[:-1]])
        ),
        ClassOrder("the data's first class left out", onward),
    ]
    by_text = torch.tensor(sorted(range(num_classes), key=str))
    orders += _list_both_ways(by_text, "its classes sorted as text (0, 1, 10, ...)")
    if len(names) == num_classes:
        by_name = torch.tensor(sorted(range(num_classes), key=lambda index: names[index]))
        if not torch.equal(by_name, by_text):
            orders += _list_both_ways(by_name, "its classes in alphabetical order")
    return [order for order in orders if not torch.equal(order.classes, indices)]


def _list_both_ways(classes: Tensor, form: str) -> list[ClassOrder]:
    """Return an order and its inverse: the mistake may lie in the model or in the data."""
    inverse = torch.empty_like(classes)
    inverse[classes] = torch.arange(len(classes))
    return [ClassOrder(form, classes), ClassOrder(f"{form} in the data instead", inverse)]


def find_better_order(
    predictions: Tensor, labels: Tensor, num_classes: int, names: Sequence[str], forms: int = 0
) -> BetterForm | None:
    """Find the order of the classes with which answers are clearly better; None if there is none.

    Args:
        predictions: (N,), the output of each image, or `NO_CLASS`.
        labels: (N,), their classes.
        num_classes: K.
        names: Names of the data's classes.
        forms: Number of all forms that are tried, of images too; 0: the orders alone.
    """
    orders = list_class_orders(num_classes, names)
    forms = forms or len(orders) + 1
    tried = [(order, order.find_correct(predictions, labels)) for order in orders]
    if can_assign_classes(num_classes, len(labels)):
        order, correct = assign_classes(predictions, labels, num_classes)
        tried += [(order, correct)] if float(correct.float().mean()) >= MIN_ORDER_ACCURACY else []
    before = predictions == labels
    found = [
        compare_form(
            before,
            after,
            labels,
            num_classes=num_classes,
            forms=forms,
            kind="classes",
            form=order.form,
            remedy=order.format_remedy(names),
        )
        for order, after in tried
    ]
    return max((form for form in found if form), key=lambda form: form.correct, default=None)


def can_assign_classes(num_classes: int, images: int) -> bool:
    """Return whether any order of the classes can be looked for on so many images."""
    return 2 < num_classes <= MAX_ASSIGNED_CLASSES and images >= MIN_IMAGES_PER_CLASS * num_classes


def assign_classes(predictions: Tensor, labels: Tensor, num_classes: int) -> tuple[ClassOrder, Tensor]:
    """Find the order of the classes that explains most answers, and how well it does on images held out.

    Half of the images choose the order that the other half is judged by, and the other way round: among
    all orders one fits any answers better than they are.

    Args:
        predictions: (N,), the output of each image, or -1.
        labels: (N,), their classes.
        num_classes: K.

    Returns:
        The order over all images, and which images are correct with the order from the other half, (N,).
    """
    correct = torch.zeros(len(labels), dtype=torch.bool)
    ranks = torch.empty(len(labels), dtype=torch.int64)
    ranks[labels.argsort(stable=True)] = torch.arange(len(labels))
    half = ranks % 2 == 1  # both halves have images of each class
    for chosen in (half, ~half):
        order = _match_outputs(predictions[chosen], labels[chosen], num_classes)
        correct[~chosen] = order.find_correct(predictions[~chosen], labels[~chosen])
    return _match_outputs(predictions, labels, num_classes), correct


def _match_outputs(predictions: Tensor, labels: Tensor, num_classes: int) -> ClassOrder:
    """Match outputs to classes so that most images are correct."""
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - seldom needed

    known = predictions >= 0
    counts = torch.zeros(num_classes, num_classes)
    counts.index_put_((predictions[known], labels[known]), torch.ones(int(known.sum())), accumulate=True)
    outputs, classes = linear_sum_assignment(counts.numpy(), maximize=True)
    order = torch.full((num_classes,), NO_CLASS)
    order[torch.from_numpy(outputs)] = torch.from_numpy(classes)
    return ClassOrder("its classes in another order", order)
