"""Independent draws of a model whose answers are random by themselves, without a declared random defense.

A verdict on such a model is one answer, and whoever asks again may get another one. How often the answers to
a verified candidate reach the attacker's goal is therefore counted over further draws. A declared random
defense needs none: its verdict consists of draws (see ``classifier.stochastic``).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.state_guard import RandomStates, seed_everything
from robustbench_local.classifier.stochastic import RandomizedClassifier
from robustbench_local.errors import ModelError
from robustbench_local.evaluation.harness.verify import (
    VerificationResult,
    count_successful_draws,
    read_draws,
)
from robustbench_local.randomness import RandomStream, derive_seed
from robustbench_local.threats.threat_model import ThreatModel

MAX_MODEL_DRAWS, MIN_MODEL_DRAWS = 100, 20
"""Draws of an image: half as many as the passes that its attack may take, within these limits."""
_SEED_RANGE = 2**32
"""NumPy takes seeds below this."""


def may_answer_at_random(classifier: Classifier) -> bool:
    """Return whether a classifier may draw random numbers that no random defense declares."""
    is_declared = isinstance(classifier, RandomizedClassifier)
    return classifier.settings.consistency.draws_numbers and not is_declared


def choose_draw_count(passes_per_image: int) -> int:
    """Choose the number of draws of an image from the largest number of passes of its attack."""
    return min(MAX_MODEL_DRAWS, max(MIN_MODEL_DRAWS, passes_per_image // 2))


def count_model_draws(
    judge: Classifier,
    verified: VerificationResult,
    labels: Tensor,
    threat: ThreatModel,
    stream: RandomStream,
    count: int,
) -> VerificationResult:
    """Count how many of ``count`` answers to each candidate reach the attacker's goal.

    Each draw is a call with one image and a seed of its own, so that it is independent of the other draws and
    of the batch. Their number is fixed before the first one: to stop early would bias what follows from them.
    An image on which the model raises meanwhile has no draws.

    Args:
        judge: A fresh copy of the classifier, with an open pass counter over these images.
        verified: The verification results.
        labels: True classes, (N,).
        threat: Budget and goal.
        stream: The images' random numbers.
        count: Draws of each image.

    Returns:
        The same results with ``draws`` and ``successful_draws``.
    """
    draws, successes = verified.draws.clone(), verified.successful_draws.clone()
    before = RandomStates.from_process()
    for row in range(len(labels)):
        own, image = labels[row : row + 1], verified.candidates[row : row + 1].to(judge.device)
        seeds = [derive_seed(stream.seed, stream.ids[row], "resubmission", draw) for draw in range(count)]
        try:
            samples = torch.stack([_draw_answer(judge, image, row, seed) for seed in seeds])
        except ModelError:
            continue
        predictions, correct = read_draws(samples, own, judge, allows_rejection=True)
        draws[row] = count
        successes[row] = count_successful_draws(predictions, correct, own, threat, judge)[0]
    before.restore_states()
    return replace(verified, draws=draws, successful_draws=successes)


def _draw_answer(judge: Classifier, image: Tensor, row: int, seed: int) -> Tensor:
    """Return one answer, (1, K), to an image, (1, C, H, W), with global generators of this seed."""
    seed_everything(seed % _SEED_RANGE)
    with torch.no_grad():
        return judge(image, torch.tensor([row], device=image.device))
