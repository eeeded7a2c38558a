"""The diagnostics of one evaluation, and the call that runs those of a model in a child process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.twin_view import TwinView
from robustbench_local.classifier.wrapper import WrappedClassifier
from robustbench_local.evaluation.diagnostics.diagnose import (
    MAX_SAMPLE_IMAGES,
    diagnose_model,
    list_unread_results,
)
from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.pass_budget import MAX_PASSES_SHARE, PassBudget
from robustbench_local.evaluation.harness.job import Job, format_error_line
from robustbench_local.evaluation.isolation.child_process import can_fork
from robustbench_local.evaluation.isolation.isolated_call import (
    call_isolated,
    catch_process_exit,
    send_to_parent,
)
from robustbench_local.models.http_model import Endpoint
from robustbench_local.store.diagnostic_records import UNENDED_REASON, DiagnosticResult
from robustbench_local.threats.threat_model import BALL_NORMS, ThreatModel

TWIN_DIAGNOSTICS = frozenset(
    {"D3", "D5", "D6a", "D6b", "D6c", "D7", "D11", "D18", "D20", "D26", "D28", "D30"}
)
"""Diagnostics that ask whether gradients lead a search, which then are those of the twin."""


def run_diagnostics(
    model: DiagnosedModel, threats: Sequence[ThreatModel], *, isolated: bool, timeout: float | None, name: str
) -> tuple[tuple[DiagnosticResult, ...], int]:
    """Run the diagnostics of one model, whatever it does meanwhile.

    Args:
        model: The model with its sample and its budget.
        threats: One threat model for each norm.
        isolated: Whether they run in a child process, where that is possible.
        timeout: Seconds that a pass may take in a child process; None for any time.
        name: The model's name in messages.

    Returns:
        The results, and the passes that they took.
    """
    if isinstance(model.classifier.model, Endpoint):
        return list_unread_results(model, threats, "each question to a service may cost money"), 0
    received: list[DiagnosticResult] = []
    ask = partial(_ask_model, model, threats)
    try:
        if isolated and model.classifier.settings.is_fork_safe and can_fork(model.classifier.device):
            return call_isolated(ask, timeout=timeout, name=name, on_message=received.append)
        with catch_process_exit(name):
            return ask()
    except Exception as failure:  # noqa: BLE001 - the evaluation itself finds out what is wrong
        reason = f"{UNENDED_REASON}: {format_error_line(failure).rstrip('.')}"
        return list_unread_results(model, threats, reason, received), sum(
            sum(result.passes) for result in received
        )


def _ask_model(
    model: DiagnosedModel, threats: Sequence[ThreatModel]
) -> tuple[tuple[DiagnosticResult, ...], int]:
    return diagnose_model(model, threats, send_to_parent), model.budget.spent


def diagnose_job(
    job: Job, timeout: float | None, view: TwinView | None = None
) -> tuple[DiagnosticResult, ...]:
    """Run the diagnostics of the model of a job, with a share of the passes that the job may take.

    Args:
        job: The job of an attack on the model itself.
        timeout: As in `run_diagnostics`; with one they run in a child process.
        view: The model with its twin, whose gradients are then diagnosed; None without a twin.
    """
    if view is None:
        return _diagnose_classifier(job, job.classifier, timeout)
    own, twin = (_diagnose_classifier(job, model, timeout) for model in (view.inner, view.twin))
    return merge_twin_diagnostics(own, twin)


def merge_twin_diagnostics(
    own: Sequence[DiagnosticResult], twin: Sequence[DiagnosticResult]
) -> tuple[DiagnosticResult, ...]:
    """Return the diagnostics of a model with those of its twin in place of what asks about gradients.

    Args:
        own: The results of the model.
        twin: Those of its twin, in whose gradients attacks search.
    """
    model, defense = (own[0].model, own[0].defense) if own else ("", "")
    of_twin = [
        replace(result, model=model, defense=defense, sentence=_name_twin(result))
        for result in twin
        if own and result.id in TWIN_DIAGNOSTICS
    ]
    return (*(result for result in own if result.id not in TWIN_DIAGNOSTICS), *of_twin)


def _name_twin(result: DiagnosticResult) -> str:
    """Return a result's sentence as one about the twin; a question that was not asked has no answer."""
    return result.sentence if result.is_unasked else f"Of its twin: {result.sentence}"


def _diagnose_classifier(
    job: Job, classifier: Classifier, timeout: float | None
) -> tuple[DiagnosticResult, ...]:
    data = job.select_images(range(min(MAX_SAMPLE_IMAGES, job.image_count)))
    wrapper = classifier if isinstance(classifier, WrappedClassifier) else None
    model = DiagnosedModel(
        id=classifier.name,
        defense="none",
        classifier=classifier,
        images=data.images,
        labels=data.labels,
        ids=data.ids,
        budget=PassBudget(limit=int(MAX_PASSES_SHARE * sum(job.max_passes))),
        seed=job.seed,
        is_wrapped=wrapper is not None,
        class_names=data.class_names,
        declares_surrogate=wrapper is not None and wrapper.has_approximated_gradient,
        lacks_surrogate=wrapper is not None
        and (wrapper.access, wrapper.inner.access) == ("scores", "gradients"),
    )
    threat = job.threat
    threats = [threat] if threat.norm in BALL_NORMS and not threat.targets else []
    return run_diagnostics(
        model, threats, isolated=timeout is not None, timeout=timeout, name=classifier.name
    )[0]
