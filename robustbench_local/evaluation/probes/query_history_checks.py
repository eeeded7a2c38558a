"""Checks that the answer to an image does not depend on earlier queries."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from robustbench_local.classifier.wrapper import find_innermost
from robustbench_local.evaluation.probes.consistency_findings import InconsistentError
from robustbench_local.evaluation.probes.model_queries import ModelQueries
from robustbench_local.evaluation.probes.probe_images import SIMILAR_BATCH_SIZE, ProbeImages
from robustbench_local.evaluation.probes.state_changes import (
    FILE_PREFIX,
    READ_FILE,
    find_state_changes,
    format_names,
)

EXTRA_CALLS = 128
"""Number of extra calls, of one image each, to a model that keeps state and has not changed its answers."""


def check_history_dependence(questions: ModelQueries, images: ProbeImages, alone: Tensor) -> None:
    """Query the same images again, after many similar ones and after a backward pass.

    Args:
        questions: The queries to the model.
        images: The probe images.
        alone: Its first answers, (2, K), to each image of the pair alone.

    Raises:
        InconsistentError: If answers depend on earlier queries.
    """
    findings, pair = questions.findings, images.pair
    warm_up, *batches = torch.split(images.similar, SIMILAR_BATCH_SIZE)
    with questions.open_fresh_copy() as model:
        questions.query_model(model, warm_up)  # state that is kept per batch size exists from here on
        questions.query_one_by_one(model, pair)
        latest = alone

        def ask_again() -> None:
            nonlocal latest
            for batch in batches:
                questions.query_model(model, batch)
            latest = questions.query_one_by_one(model, pair)

        # the previous query was the same: state that only stores the last answer is unchanged
        changed = find_state_changes(model, ask_again)
        findings.refuse_memory(alone, latest, f"after {len(images.similar)} similar ones", changed)
        if questions.run_backward(model, images.distinct[:2]):
            again = questions.query_model(model, pair[:1])
            findings.refuse_memory(alone[:1], again, "after a backward pass", changed)
    findings.read_files = tuple(
        sorted(path.removeprefix(FILE_PREFIX) for path, text in changed.items() if text == READ_FILE)
    )
    if changed:
        _query_repeatedly(questions, images, alone, changed)


def _query_repeatedly(
    questions: ModelQueries, images: ProbeImages, alone: Tensor, changed: Collection[str]
) -> None:
    """Make many more calls to a model with growing state; if no answer changes, add a note."""
    findings, classifier, similar = questions.findings, questions.classifier, images.similar
    with questions.open_fresh_copy() as model:
        for call in range(EXTRA_CALLS):
            questions.query_model(model, similar[call % len(similar)][None])
        answers = questions.query_one_by_one(model, images.pair)
        findings.refuse_memory(alone, answers, f"after {EXTRA_CALLS} calls", changed)
        uncopied = (
            changed if model is classifier else find_innermost(classifier).uncopied_attributes & set(changed)
        )
        if uncopied:
            cause = f"keeps state between calls ({format_names(uncopied)} changed) that cannot be copied"
            raise InconsistentError(findings.build_result("memory", cause))
    files = [path for path in changed if path.startswith(FILE_PREFIX)]
    if files:
        findings.notes.append(
            f"writes to {format_names(files)} in its forward: that made no difference to its answers in "
            f"{EXTRA_CALLS} calls, and no copy of it forgets what is there"
        )
    if attributes := set(changed) - set(files):
        findings.is_stateful = True
        findings.notes.append(
            f"keeps state between calls ({format_names(attributes)} changed): a copy that remembers nothing "
            "answers each call"
        )
