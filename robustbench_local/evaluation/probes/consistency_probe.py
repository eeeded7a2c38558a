"""Checks that a model's answer depends on the image alone, not on its batch or on earlier queries.

Numbers of an inconsistent model hold for one batch size, one order and one history only. The probe therefore
queries a handful of images before any attack: alone, in other batches, again after many similar images, and
after gradients.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

import torch
from torch import Tensor

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.foreign_errors import is_out_of_memory
from robustbench_local.classifier.hidden_state import GENERATOR_DIGEST_PREFIX
from robustbench_local.classifier.model_call import SINGLE_ANSWERS_NOTE
from robustbench_local.classifier.wrapper import WrappedClassifier
from robustbench_local.errors import ModelError, UnreachableError
from robustbench_local.evaluation.probes.answer_differences import (
    SERVICE_TOLERANCE,
    find_tolerance,
    has_difference,
)
from robustbench_local.evaluation.probes.batch_composition_checks import (
    LARGE_BATCH_SIZE,
    check_batch_dependence,
)
from robustbench_local.evaluation.probes.consistency_findings import (
    ConsistencyFindings,
    ConsistencyResult,
    InconsistentError,
)
from robustbench_local.evaluation.probes.gradient_probe import has_misleading_gradients
from robustbench_local.evaluation.probes.model_queries import ModelQueries
from robustbench_local.evaluation.probes.probe_images import (
    ProbeImages,
    make_distinct_images,
    make_probe_images,
)
from robustbench_local.evaluation.probes.query_history_checks import check_history_dependence
from robustbench_local.evaluation.probes.state_changes import find_state_changes, format_names
from robustbench_local.models.program_operators import is_dynamically_quantized


def probe_consistency(
    classifier: Classifier, images: Tensor, *, should_use_gradients: bool = True
) -> ConsistencyResult:
    """Query a model on a few images in several ways and compare the answers.

    A module is queried on about eighty images and left unchanged: copies answer where it can be copied. A
    callable may be a remote service and is queried on six. The global random states are the same before each
    call, so that a model that draws from them is compared with itself.

    Args:
        classifier: The classifier, a defended one as a whole.
        images: (N, C, H, W) in [0, 1], N at least 1, of the data that it will be evaluated on.
        should_use_gradients: Whether gradients may be computed, which black-box attacks do not need.

    Returns:
        The findings; the first inconsistency ends the probe.

    Raises:
        ModelError: If the model cannot answer on any of the first images.
    """
    alone = [images[row : row + 1] for row in range(min(3, len(images)))]
    try:
        return _probe_once(classifier, images, should_use_gradients)
    except UnreachableError:
        raise
    except ModelError as failure:
        # an image on which the model fails costs only itself later: the others are made from one that works
        for image in alone:
            with suppress(ModelError):
                return _probe_once(classifier, image, should_use_gradients)
        raise failure  # noqa: TRY201  the first one, not that of the last image


def _probe_once(classifier: Classifier, images: Tensor, backward: bool) -> ConsistencyResult:
    with classifier.evaluation_mode():
        distinct = make_distinct_images(images).to(classifier.device)
        findings = ConsistencyFindings(classifier.access, find_tolerance(classifier.module))
        if classifier.module is not None and is_dynamically_quantized(classifier.module):
            findings.batch_suspect = "its dynamic quantization takes one scale from the whole batch"
        questions = ModelQueries(classifier, findings, backward)
        try:
            if classifier.module is None:
                _probe_service(questions, distinct)
            else:
                _probe_module(questions, make_probe_images(distinct))
        except InconsistentError as found:
            return found.result
        except Exception as failure:
            if not is_out_of_memory(failure):
                raise
            findings.notes.append(
                f"memory ran out when it was asked about {LARGE_BATCH_SIZE} images at once: whether its "
                "answers depend on the other images of a batch is not known"
            )
        return findings.build_result("consistent")


def _probe_module(questions: ModelQueries, images: ProbeImages) -> None:
    """Run all queries."""
    alone = _query_alone(questions, images.pair)
    if not questions.findings.is_nondeterministic:
        check_batch_dependence(questions, images, alone)
    if not questions.findings.is_nondeterministic and not questions.findings.has_own_generator:
        check_history_dependence(questions, images, alone)
    chance = questions.findings.is_nondeterministic or questions.findings.may_be_random
    if not (chance or isinstance(questions.classifier, WrappedClassifier)):
        _probe_gradients(questions, images)  # a defense's own are straight through, and its model is asked


def _probe_gradients(questions: ModelQueries, images: ProbeImages) -> None:
    """Check whether gradients predict how answers change."""
    findings = questions.findings
    if not questions.has_gradients:
        return
    try:
        with questions.open_fresh_copy() as model:
            findings.has_misleading_gradients = has_misleading_gradients(model, images.distinct)
    except (ModelError, RuntimeError) as error:
        if is_out_of_memory(error) or isinstance(error, UnreachableError):
            raise
    if findings.has_misleading_gradients:
        findings.notes.append(
            "its gradients do not say how its answers change: what attacks that follow them do not break "
            "is not robust for that"
        )


def _probe_service(questions: ModelQueries, distinct: Tensor) -> None:
    """Run few queries, because each may cost money: alone, again, and in a batch."""
    findings, classifier = questions.findings, questions.classifier
    first, again = distinct[:1], torch.zeros(0)
    before = questions.query_model(classifier, first)

    def ask_again() -> None:
        nonlocal again
        again = questions.query_model(classifier, first)

    changed = find_state_changes(classifier, ask_again)
    if changed:
        findings.notes.append(f"keeps state between calls ({format_names(changed)} changed)")
    if has_difference(before, again, SERVICE_TOLERANCE):
        findings.note_variation(before, again)
        return
    among = questions.query_model(classifier, torch.cat([distinct[1:3], first, distinct[3:4]]))[2:3]
    findings.refuse_batch_dependence(
        before, among, SERVICE_TOLERANCE, "its place and the other images of the batch"
    )


def _query_alone(questions: ModelQueries, pair: Tensor) -> Tensor:
    """Query two images alone, each on a fresh copy; the first one twice."""
    findings = questions.findings
    with questions.open_fresh_copy() as model:
        answers = [questions.query_model(model, pair[:1])]
        changed = find_state_changes(model, lambda: answers.append(questions.query_model(model, pair[:1])))
    first, again = answers
    generators = sorted(path for path, text in changed.items() if text.startswith(GENERATOR_DIGEST_PREFIX))
    if generators:
        findings.may_be_random = findings.has_own_generator = True
        findings.notes.append(
            f"draws random numbers from a generator of its own ({format_names(generators)}): its predictions "
            f"change from call to call; {SINGLE_ANSWERS_NOTE}"
        )
    elif has_difference(first, again, findings.tolerance):
        _explain_change(questions, pair[:1], first, again, changed)
    with questions.open_fresh_copy() as model:
        return torch.cat([first, questions.query_model(model, pair[1:])])


def _explain_change(
    questions: ModelQueries, image: Tensor, first: Tensor, again: Tensor, changed: Collection[str]
) -> None:
    """Explain two different answers to one image: copies tell chance from memory."""
    findings = questions.findings
    with questions.open_fresh_copy() as model:
        other = questions.query_model(model, image)
    weights = {name for name, _ in model.module.named_parameters()} if model.module else set()
    if weights.isdisjoint(changed) and has_difference(first, other, findings.tolerance):
        findings.note_variation(first, other)
    else:
        findings.refuse_memory(first, again, "when it is asked again", changed)
