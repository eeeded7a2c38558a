"""A short inspection, for runs that cannot afford one of operators and layers."""

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


def inspect_gradients(
    classifier: Classifier, images: Tensor, labels: Tensor, stream: RandomStream
) -> ModelFindings:
    """Look at gradients, logits and random draws alone; arguments as for `inspect_model`.

    Returns:
        Findings whose operators, layers and parts are unknown; their passes count in the open counter.
    """
    with torch.no_grad():
        logits = classifier(images)
    return ModelFindings(
        gradients=check_gradients(classifier, images, labels, stream),
        logits=check_logits(logits),
        randomness=check_randomness(classifier, images, labels),
        is_wrapped=isinstance(classifier, WrappedClassifier),
        images=len(images),
        passes=(0, 0),
    )
