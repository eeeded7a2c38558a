"""Checks that the answer to an image does not depend on the rest of its batch: content, size or position."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor

from robustbench_local.errors import ModelError
from robustbench_local.evaluation.probes.answer_differences import compute_size_tolerance, has_difference
from robustbench_local.evaluation.probes.gradient_recording_checks import check_grad_mode_dependence
from robustbench_local.evaluation.probes.model_queries import ModelQueries
from robustbench_local.evaluation.probes.probe_images import PROBE_SEED, ProbeImages

LARGE_BATCH_SIZE = 17
"""A large batch size, no multiple of those that kernels are optimized for."""


def check_batch_dependence(questions: ModelQueries, images: ProbeImages, alone: Tensor) -> None:
    """Query the same images in other batches, at other positions and in batches of other sizes.

    Args:
        questions: The queries to the model.
        images: The probe images.
        alone: Its answers, (2, K), to each image of the pair alone.

    Raises:
        InconsistentError: If answers depend on the batch.
    """
    findings = questions.findings
    first, neighbours = images.pair[:1], images.distinct[1:3]
    others = "the other images of the batch"
    beside = [questions.query_pair(first, neighbour) for neighbour in torch.split(neighbours, 1)]
    findings.refuse_batch_dependence(beside[0][:1], beside[1][:1], findings.tolerance, others)
    with suppress(ModelError):  # it may refuse pale images, which are not in its data
        # an image with black and white pixels would hide an effect of the batch's extremes
        pale = 0.4 + 0.2 * first
        greyer = questions.query_pair(pale, 0.5 * pale + 0.25)[:1]
        starker = questions.query_pair(pale, neighbours[:1])[:1]
        findings.refuse_batch_dependence(greyer, starker, findings.tolerance, others)
    check_grad_mode_dependence(questions, images, beside[0])
    if findings.may_be_random and not _has_fixed_seed(questions, first, alone[:1]):
        return  # a batch of another size or order draws other numbers for an image
    copies = neighbours[:1].expand(LARGE_BATCH_SIZE - len(images.distinct) - 1, *first.shape[1:])
    with questions.open_fresh_copy() as model:
        many = questions.query_model(model, torch.cat([copies, images.distinct[1:], images.pair.flip(0)]))
    same = torch.cat([alone, beside[0][1:], beside[0][1:], beside[1][1:]])
    answers = many[[-1, -2, 0, len(copies), len(copies) + 1]]
    findings.size_tolerance = _measure_size_tolerance(questions, images, beside[0])
    what = "the size of the batch, the place in it or the other images"
    findings.refuse_batch_dependence(same, answers, findings.size_tolerance, what)


def _has_fixed_seed(questions: ModelQueries, image: Tensor, answer: Tensor) -> bool:
    """Check for a fixed seed: the model draws from a global random state but ignores its value."""
    if questions.findings.has_own_generator:  # each copy starts again at the seed
        return False
    with questions.open_fresh_copy() as model:
        other = questions.query_model(model, image, seed=PROBE_SEED + 1)
    return not has_difference(answer, other, questions.findings.tolerance)


def _measure_size_tolerance(questions: ModelQueries, images: ProbeImages, answers: Tensor) -> float:
    """Measure the tolerance, see `compute_size_tolerance`; ``answers`` are to the first two images."""
    with questions.open_fresh_copy() as model:
        moved = questions.query_model(model, images.distinct[:2].add(1e-6).clamp(0, 1))
    return compute_size_tolerance(answers, moved, questions.findings.tolerance)
