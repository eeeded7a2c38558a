"""Whether the answer to an image depends on what was asked before."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from robustbench_local.classifier.wrapper import innermost
from robustbench_local.evaluation.probes.consistency_findings import InconsistentError
from robustbench_local.evaluation.probes.model_queries import ModelQuestions
from robustbench_local.evaluation.probes.probe_images import SIMILAR_SIZE, ProbeImages
from robustbench_local.evaluation.probes.state_changes import FILE, find_changes, list_names

MANY_CALLS = 128
"""Calls, of one image each, that a model gets that keeps state without a change in its answers so far."""


def compare_history(questions: ModelQuestions, images: ProbeImages, alone: Tensor) -> None:
    """Ask about the same images again, after many similar ones and after a backward pass.

    Args:
        questions: To the model.
        images: What it is asked about.
        alone: Its answers, (2, K), to each image of the pair alone, when it had been asked nothing else.

    Raises:
        InconsistentError: If answers depend on what was asked before.
    """
    findings, pair = questions.findings, images.pair
    warm_up, *batches = torch.split(images.similar, SIMILAR_SIZE)
    with questions.fresh() as model:
        questions.ask(model, warm_up)  # what is kept for each size of a batch is kept from now on
        questions.ask_one_by_one(model, pair)
        seen = alone

        def ask_again() -> None:
            nonlocal seen
            for batch in batches:
                questions.ask(model, batch)
            seen = questions.ask_one_by_one(model, pair)

        # the same question came last before: what only holds the last answer is as it was
        changed = find_changes(model, ask_again)
        findings.refuse_memory(alone, seen, f"after {len(images.similar)} similar ones", changed)
        if questions.run_backward(model, images.distinct[:2]):
            again = questions.ask(model, pair[:1])
            findings.refuse_memory(alone[:1], again, "after a backward pass", changed)
    if changed:
        _question_state(questions, images, alone, changed)


def _question_state(
    questions: ModelQuestions, images: ProbeImages, alone: Tensor, changed: Collection[str]
) -> None:
    """Many more calls to a model in which something grows; if nothing comes of it, a note."""
    findings, classifier, similar = questions.findings, questions.classifier, images.similar
    with questions.fresh() as model:
        for call in range(MANY_CALLS):
            questions.ask(model, similar[call % len(similar)][None])
        seen = questions.ask_one_by_one(model, images.pair)
        findings.refuse_memory(alone, seen, f"after {MANY_CALLS} calls", changed)
        uncopied = changed if model is classifier else innermost(classifier).uncopied & set(changed)
        if uncopied:
            cause = f"keeps state between calls ({list_names(uncopied)} changed) that cannot be copied"
            raise InconsistentError(findings.summarize("memory", cause))
    files = [path for path in changed if path.startswith(FILE)]
    if files:
        findings.notes.append(
            f"writes to {list_names(files)} in its forward: that made no difference to its answers in "
            f"{MANY_CALLS} calls, and no copy of it forgets what is there"
        )
    if kept := set(changed) - set(files):
        findings.keeps_state = True
        findings.notes.append(
            f"keeps state between calls ({list_names(kept)} changed): a copy that remembers nothing answers "
            "each call"
        )
