"""``attack``: adversarial examples as tensors, for use outside an evaluation."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robustbench_local.attacks.base import Attack
from robustbench_local.classifier import Classifier
from robustbench_local.counted_nouns import format_count
from robustbench_local.evaluation.evaluate import ArrayLike, EvaluationResult, evaluate
from robustbench_local.evaluation.model_argument import join_data


class AdversarialExamples(NamedTuple):
    """The adversarial examples of some images; unpacks as ``images, success``."""

    images: Tensor
    """(N, C, H, W), float32 in [0, 1]: the adversarial examples. Where the attack failed: its best candidate
    inside the threat model, or the clean image where it has none."""
    success: Tensor
    """(N,) boolean: the image reaches the attacker's goal, as verified by the harness. An image that is
    misclassified without any perturbation counts, and is returned as it is; so does an answer that is not
    finite, unless there are targets."""

    def __repr__(self) -> str:
        shape = "x".join(str(size) for size in self.images.shape[1:])
        count = int(self.success.sum())
        return (
            f"AdversarialExamples({format_count(len(self.images), 'image')} of {shape}, {count} with success)"
        )


def attack(
    classifier: Classifier | nn.Module,
    images: ArrayLike,
    labels: ArrayLike,
    attack: str | Attack | type[Attack] = "autoattack",
    **options: Any,
) -> AdversarialExamples:
    """Attack a classifier and return the adversarial examples, verified by the harness.

    An attack never decides its own success: every candidate is checked against the threat model and
    classified again, as in :func:`evaluate`. Use that function for rates with intervals and a
    table with one row per image.

    Example:
        >>> import robustbench_local as rbl
        >>> classifier = rbl.load_classifier("zoo:signs-plain")
        >>> data = rbl.load_dataset("signs", limit=4)
        >>> adversarial, success = rbl.attack(
        ...     classifier, data.images, data.labels, "pgd", steps=3, norm="Linf", eps="8/255"
        ... )
        >>> adversarial.shape, success.dtype
        (torch.Size([4, 3, 32, 32]), torch.bool)
        >>> bool((adversarial - data.images).abs().max() <= 8 / 255 + 1e-6)
        True

    Args:
        classifier: A classifier, or a network that takes images in [0, 1] as they are.
        images: (N, C, H, W), uint8 or floats in [0, 1]: a tensor, a NumPy array or a list.
        labels: True classes, (N,).
        attack: A card such as ``"pgd50-linf-8"``, a method such as ``"pgd"``, a class such as ``rbl.PGD``, or
            an instance of one.
        **options: Anything else that :func:`evaluate` takes: ``norm``, ``eps``, ``targets`` (target classes
            of the attacker, the same for all images), ``seed``, ``options``, parameters of the attack.

    Returns:
        Images and success, in the order of the images, on the device of ``images`` if that is a tensor.

    Raises:
        RobustbenchError: As :func:`evaluate`.
    """
    data = join_data(images, labels)
    result = evaluate(classifier, data, attack=attack, **options)
    examples = _collect_examples(result, data.images, data.ids)
    return examples if not isinstance(images, Tensor) else _move_examples(examples, images.device)


def _collect_examples(result: EvaluationResult, images: Tensor, ids: tuple[str, ...]) -> AdversarialExamples:
    """Return the candidates in the order of all images; clean ones where the goal does not apply."""
    rows = {image: row for row, image in enumerate(ids)}
    adversarial, success = images.clone(), torch.zeros(len(images), dtype=torch.bool)
    targets = result.threat.targets
    outcomes = zip(result.outcomes.itertuples(index=False), result.adversarial_examples, strict=True)
    for outcome, candidate in outcomes:
        row = rows[str(outcome.image)]
        adversarial[row] = candidate
        read = outcome.clean_prediction
        wrong = not outcome.clean_correct and outcome.status != "error"
        success[row] = bool(outcome.broken) or (wrong and (not targets or read in targets))
    return AdversarialExamples(adversarial, success)


def _move_examples(examples: AdversarialExamples, device: torch.device) -> AdversarialExamples:
    return AdversarialExamples(examples.images.to(device), examples.success.to(device))
