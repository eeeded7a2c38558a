"""The inspection of a model: a few passes that show why its gradients may be of no use."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_local.attacks.adaptive.findings import ModelFindings
from robustbench_local.attacks.adaptive.gradient_checks import check_gradients
from robustbench_local.attacks.adaptive.logit_checks import check_logits
from robustbench_local.attacks.adaptive.randomness_checks import check_randomness
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.wrapper import WrappedClassifier
from robustbench_local.randomness import RandomStream

MAX_PROBE_IMAGES = 12
"""Images that the inspection looks at: they cost about 500 passes each, where AutoAttack plans 7,000 for each
image of a cell."""


def inspect_model(
    classifier: Classifier, images: Tensor, labels: Tensor, stream: RandomStream
) -> ModelFindings:
    """Find out where a model's gradients, logits and random draws would mislead an attack.

    Nothing of the model or of the process is changed afterwards.

    Args:
        classifier: Any classifier.
        images: (N, C, H, W) in [0, 1], N at least 1; the first `MAX_PROBE_IMAGES` are used.
        labels: True classes, (N,).
        stream: Random numbers of those images, in the same order.

    Raises:
        ModelError: If the model cannot answer.
    """
    images = images[:MAX_PROBE_IMAGES].to(classifier.device)
    labels = labels[:MAX_PROBE_IMAGES].to(classifier.device)
    with classifier.evaluation_mode(), classifier.count_passes(len(images)) as counter:
        with torch.no_grad():
            logits = classifier(images)
        is_correct = logits.argmax(dim=1) == labels
        rows = (is_correct if bool(is_correct.any()) else torch.ones_like(is_correct)).nonzero().flatten()
        probes, own_labels, own_stream = images[rows], labels[rows], stream.select_images(rows)
        return ModelFindings(
            gradients=check_gradients(classifier, probes, own_labels, own_stream),
            logits=check_logits(logits),
            randomness=check_randomness(classifier, probes, own_labels),
            is_wrapped=isinstance(classifier, WrappedClassifier),
            images=len(images),
            passes=(int(counter.forward_passes.sum()), int(counter.backward_passes.sum())),
        )
