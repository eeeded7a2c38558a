"""Whether a model answers an image by the image alone: not by its company, nor by what it was asked before.

A number of a model that does is a number of one batch size, one order and one history. So a handful of images
is asked about before any attack: alone, in other company, again after many similar ones, after gradients.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

import torch
from torch import Tensor

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.foreign_errors import out_of_memory
from robustbench_local.classifier.hidden_state import RANDOM
from robustbench_local.classifier.wrapper import WrappedClassifier
from robustbench_local.errors import ModelError, UnreachableError
from robustbench_local.evaluation.probes.answer_differences import (
    SERVICE_TOLERANCE,
    answers_differ,
    find_tolerance,
)
from robustbench_local.evaluation.probes.batch_composition_checks import COMPANY_SIZE, compare_company
from robustbench_local.evaluation.probes.consistency_findings import (
    ConsistencyProbe,
    Findings,
    InconsistentError,
)
from robustbench_local.evaluation.probes.gradient_probe import find_misleading_gradients
from robustbench_local.evaluation.probes.model_queries import ModelQuestions
from robustbench_local.evaluation.probes.probe_images import ProbeImages, make_distinct, make_probe_images
from robustbench_local.evaluation.probes.query_history_checks import compare_history
from robustbench_local.evaluation.probes.state_changes import find_changes, list_names


def probe_consistency(classifier: Classifier, images: Tensor, *, backward: bool = True) -> ConsistencyProbe:
    """Ask a model about a few images in several ways and compare the answers.

    A module is asked about some eighty images, and left as if it had not been: copies of it are asked, where
    it can be copied. What is no module may be somebody's service, and is asked about six. The global random
    states are the same before each call, so that a model that draws from them is compared with itself.

    Args:
        classifier: The classifier, a defended one as a whole.
        images: (N, C, H, W) in [0, 1], N at least 1, of the data that it will be evaluated on.
        backward: Whether it may be asked for gradients, which are more than black boxes need.

    Returns:
        What was found; the first inconsistency ends the questions.

    Raises:
        ModelError: If the model cannot answer about any of the first images.
    """
    alone = [images[row : row + 1] for row in range(min(3, len(images)))]
    try:
        return _probe(classifier, images, backward)
    except UnreachableError:
        raise
    except ModelError as failure:
        # an image that it cannot bear costs that image at work: the others are made from one that it can
        for image in alone:
            with suppress(ModelError):
                return _probe(classifier, image, backward)
        raise failure  # noqa: TRY201  the first one, not that of the last image


def _probe(classifier: Classifier, images: Tensor, backward: bool) -> ConsistencyProbe:
    with classifier.attacked():
        distinct = make_distinct(images).to(classifier.device)
        findings = Findings(classifier.access, find_tolerance(classifier.module))
        questions = ModelQuestions(classifier, findings, backward)
        try:
            if classifier.module is None:
                _question_service(questions, distinct)
            else:
                _question_module(questions, make_probe_images(distinct))
        except InconsistentError as found:
            return found.probe
        except Exception as failure:
            if not out_of_memory(failure):
                raise
            findings.notes.append(
                f"memory ran out when it was asked about {COMPANY_SIZE} images at once: whether its answers "
                "depend on the other images of a batch is not known"
            )
        return findings.summarize("consistent")


def _question_module(questions: ModelQuestions, images: ProbeImages) -> None:
    """All questions."""
    alone = _ask_alone(questions, images.pair)
    if not questions.findings.varies:
        compare_company(questions, images, alone)
    if not questions.findings.varies and not questions.findings.own_generator:
        compare_history(questions, images, alone)
    chance = questions.findings.varies or questions.findings.draws
    if not (chance or isinstance(questions.classifier, WrappedClassifier)):
        _question_gradients(questions, images)  # a defense's own are straight through, and its model is asked


def _question_gradients(questions: ModelQuestions, images: ProbeImages) -> None:
    """Whether gradients say how answers change."""
    findings = questions.findings
    if not questions.takes_gradients:
        return
    try:
        with questions.fresh() as model:
            findings.misleads = find_misleading_gradients(model, images.distinct)
    except (ModelError, RuntimeError) as error:
        if out_of_memory(error) or isinstance(error, UnreachableError):
            raise
    if findings.misleads:
        findings.notes.append(
            "its gradients do not say how its answers change: what attacks that follow them do not break "
            "is not robust for that"
        )


def _question_service(questions: ModelQuestions, distinct: Tensor) -> None:
    """Few questions, for each may cost somebody something: alone, again, and in company."""
    findings, classifier = questions.findings, questions.classifier
    first, again = distinct[:1], torch.zeros(0)
    before = questions.ask(classifier, first)

    def ask_again() -> None:
        nonlocal again
        again = questions.ask(classifier, first)

    changed = find_changes(classifier, ask_again)
    if changed:
        findings.notes.append(f"keeps state between calls ({list_names(changed)} changed)")
    if answers_differ(before, again, SERVICE_TOLERANCE):
        findings.note_variation(before, again)
        return
    among = questions.ask(classifier, torch.cat([distinct[1:3], first, distinct[3:4]]))[2:3]
    findings.refuse_company(before, among, SERVICE_TOLERANCE, "its place and the other images of the batch")


def _ask_alone(questions: ModelQuestions, pair: Tensor) -> Tensor:
    """Answers to two images alone, each of a copy that was asked nothing else before; the first twice."""
    findings = questions.findings
    with questions.fresh() as model:
        answers = [questions.ask(model, pair[:1])]
        changed = find_changes(model, lambda: answers.append(questions.ask(model, pair[:1])))
    first, again = answers
    generators = sorted(path for path, text in changed.items() if text.startswith(RANDOM))
    if generators:
        findings.draws = findings.own_generator = True
        findings.notes.append(
            f"draws random numbers from a generator of its own ({list_names(generators)}): its predictions "
            "change from call to call"
        )
    elif answers_differ(first, again, findings.tolerance):
        _explain_change(questions, pair[:1], first, again, changed)
    with questions.fresh() as model:
        return torch.cat([first, questions.ask(model, pair[1:])])


def _explain_change(
    questions: ModelQuestions, image: Tensor, first: Tensor, again: Tensor, changed: Collection[str]
) -> None:
    """Why an image that is asked about twice gets two answers: copies tell chance from memory."""
    findings = questions.findings
    with questions.fresh() as model:
        other = questions.ask(model, image)
    weights = {name for name, _ in model.module.named_parameters()} if model.module else set()
    if weights.isdisjoint(changed) and answers_differ(first, other, findings.tolerance):
        findings.note_variation(first, other)
    else:
        findings.refuse_memory(first, again, "when it is asked again", changed)
