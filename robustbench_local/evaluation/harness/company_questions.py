"""Whether the answer to an image depends on its company: other images, their number, its place among them."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_local.evaluation.harness.answer_differences import find_size_tolerance
from robustbench_local.evaluation.harness.model_questions import ModelQuestions
from robustbench_local.evaluation.harness.probe_images import ProbeImages

COMPANY_SIZE = 17
"""The batch in which an image is asked about in much company: no multiple of what kernels are made for."""


def compare_company(questions: ModelQuestions, images: ProbeImages, alone: Tensor) -> None:
    """Ask about the same images with others beside them, at other places and in batches of other sizes.

    Args:
        questions: To the model.
        images: What it is asked about.
        alone: Its answers, (2, K), to each image of the pair alone.

    Raises:
        InconsistentError: If answers depend on the company.
    """
    findings = questions.findings
    first, neighbours = images.pair[:1], images.distinct[1:3]
    beside = []
    for neighbour in torch.split(neighbours, 1):
        with questions.fresh() as model:
            beside.append(questions.ask(model, torch.cat([first, neighbour])))
    findings.refuse_company(beside[0][:1], beside[1][:1], findings.tolerance, "the other images of the batch")
    if findings.draws:  # a batch of another size or order draws other numbers for an image
        return
    copies = neighbours[:1].expand(COMPANY_SIZE - len(images.distinct) - 1, *first.shape[1:])
    with questions.fresh() as model:
        many = questions.ask(model, torch.cat([copies, images.distinct[1:], images.pair.flip(0)]))
    same = torch.cat([alone, beside[0][1:], beside[0][1:], beside[1][1:]])
    seen = many[[-1, -2, 0, len(copies), len(copies) + 1]]
    findings.size_tolerance = _measure_size_tolerance(questions, images, beside[0])
    what = "the size of the batch, the place in it or the other images"
    findings.refuse_company(same, seen, findings.size_tolerance, what)


def _measure_size_tolerance(questions: ModelQuestions, images: ProbeImages, answers: Tensor) -> float:
    """See `find_size_tolerance`; ``answers`` are those to the first two images together."""
    with questions.fresh() as model:
        moved = questions.ask(model, images.distinct[:2].add(1e-6).clamp(0, 1))
    return find_size_tolerance(answers, moved, questions.findings.tolerance)
