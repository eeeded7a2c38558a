"""All diagnostics of one model: a sample of images, an inspection, then one reading after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from robustbench_local.attacks.adaptive.findings import ModelFindings
from robustbench_local.attacks.adaptive.inspection import inspect_model
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.foreign_errors import extract_first_line
from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.diagnostic import (
    TOO_SMALL_REASON,
    Diagnostic,
    Reading,
    build_unread,
)
from robustbench_local.evaluation.diagnostics.diagnostic_registry import DIAGNOSTICS
from robustbench_local.evaluation.diagnostics.own_surrogates import has_own_surrogates
from robustbench_local.evaluation.diagnostics.short_inspection import inspect_briefly, inspect_gradients
from robustbench_local.randomness import RandomStream
from robustbench_local.store.diagnostic_records import RAISED_REASON, DiagnosticResult
from robustbench_local.threats.threat_model import ThreatModel

MAX_SAMPLE_IMAGES = 64
"""Most images that are asked about: the first ones of the data."""
MIN_SAMPLE_IMAGES = 4
"""Images that a small run asks about, if it can: with one it has diagnostics."""
SAMPLE_SHARE, SMALL_SAMPLE_SHARE = 0.10, 0.20
"""Share of the budget for the clean answers; for so few."""
MAX_INSPECTED_IMAGES = 12
"""Most images of the inspection, which takes many passes for each."""
MIN_INSPECTED_IMAGES = 4
"""With fewer images a median says little: a shorter inspection, or none, is made then."""
INSPECTION_SHARE = 0.40
"""Share of the budget that a whole inspection may take."""
BRIEF_INSPECTION_SHARE = 0.85
"""Share of the budget that the briefest one may take: it says more than all other questions."""
INSPECTION_PASSES = 500
"""Passes for each image that a whole inspection may take; it takes about 60 on a sound model."""
SHORT_INSPECTION_PASSES = 54
"""Passes for each image without layers and parts: five repetitions, gradients of two losses, central
differences along 8 directions with two step sizes, and a look at operators."""
BRIEF_INSPECTION_PASSES = 24
"""Most passes for an image: repetitions, gradients of two losses, central differences along three directions,
and a look at operators. A single image takes them all, of several each takes less."""
MAX_BRIEFLY_INSPECTED_IMAGES = 6
"""Most images of a brief inspection: the slopes of all count together."""
Finding = TypeVar("Finding")
_Inspection = Callable[[Classifier, Tensor, Tensor, RandomStream], ModelFindings]


def diagnose_model(
    model: DiagnosedModel,
    threats: Sequence[ThreatModel],
    receive: Callable[[DiagnosticResult], None] = lambda _result: None,
) -> tuple[DiagnosticResult, ...]:
    """Run every diagnostic of a model; one that raises is not run, with the reason.

    Args:
        model: The model with its sample and its budget; the classifier is left as it is.
        threats: One threat model for each norm of the run.
        receive: Called with each result as it is made, so that results before a crash are kept.

    Returns:
        All results, in the order of the registry.
    """
    original = model.classifier
    results = []
    with original.evaluation_mode(), original.open_fresh_copy() as model.classifier:
        problem = _ask_about_sample(model)
        if not problem:
            _inspect_sample(model)
        for diagnostic, threat in _list_checks(threats):
            model.threat = threat
            result = _run_diagnostic(diagnostic, model, problem)
            results.append(result)
            receive(result)
    model.classifier = original
    return tuple(results)


def list_unread_results(
    model: DiagnosedModel, threats: Sequence[ThreatModel], reason: str, known: Sequence[DiagnosticResult] = ()
) -> tuple[DiagnosticResult, ...]:
    """Return ``known`` completed by results that say why a diagnostic was not run.

    Args:
        model: The model.
        threats: As in `diagnose_model`.
        reason: It completes "not checked: ".
        known: Results that were made before.
    """
    found = {(result.id, result.threat): result for result in known}
    results = []
    for diagnostic, threat in _list_checks(threats):
        model.threat = threat
        unread = diagnostic.build_result(model, build_unread(reason))
        results.append(found.get((unread.id, unread.threat), unread))
    return tuple(results)


def _list_checks(threats: Sequence[ThreatModel]) -> Iterator[tuple[Diagnostic, ThreatModel | None]]:
    for diagnostic in DIAGNOSTICS:
        if not diagnostic.is_per_norm:
            yield diagnostic, None
        for threat in threats if diagnostic.is_per_norm else ():
            yield diagnostic, threat


def _ask_about_sample(model: DiagnosedModel) -> str:
    """Ask about the first images; return why nothing else can be asked, or an empty text."""
    cost, most = model.passes_per_query, min(MAX_SAMPLE_IMAGES, len(model.images))
    few = model.budget.count_images(cost, min(MIN_SAMPLE_IMAGES, most), SMALL_SAMPLE_SHARE)
    n = max(few, model.budget.count_images(cost, most, SAMPLE_SHARE))
    if not n:
        return TOO_SMALL_REASON
    model.images, model.labels, model.ids = model.images[:n], model.labels[:n], model.ids[:n]
    try:
        with model.track_passes(n):
            model.logits = _repeat_with_less(model, lambda: model.compute_logits(model.images))
    except Exception as failure:  # noqa: BLE001 - the evaluation finds out which image it is about
        return _describe_failure(failure)
    return ""


def _inspect_sample(model: DiagnosedModel) -> None:
    """Inspect the model on its first correctly classified images, on all images if there is none.

    A run that cannot afford an inspection of operators and layers has a shorter one.
    """
    if model.classifier.module is None:
        model.missing_findings = "the model is no torch module, and each question to it may cost"
        return
    rows = model.correct_rows if len(model.correct_rows) else torch.arange(len(model.labels))
    inspect, count = _choose_inspection(model, len(rows))
    if inspect is None:
        model.missing_findings = TOO_SMALL_REASON
        return
    rows, model.is_wholly_inspected = rows[:count], inspect is inspect_model
    model.knows_parts = inspect is not inspect_briefly
    stream = RandomStream(model.seed, tuple(model.ids[row] for row in rows.tolist()), "inspection")
    images, labels = (part[rows].to(model.classifier.device) for part in (model.images, model.labels))
    try:
        with model.track_passes(len(rows)):
            model.findings = _repeat_with_less(
                model, lambda: inspect(model.classifier, images, labels, stream)
            )
            model.declares_surrogate |= has_own_surrogates(model.classifier, model.findings, images)
    except Exception as failure:  # noqa: BLE001 - a model may do anything
        model.missing_findings = _describe_failure(failure)


def _choose_inspection(model: DiagnosedModel, available: int) -> tuple[_Inspection | None, int]:
    """Choose the most thorough inspection that the budget allows, and its number of images."""
    draws, most = model.passes_per_query, min(MAX_INSPECTED_IMAGES, available)
    for inspect, passes in ((inspect_model, INSPECTION_PASSES), (inspect_gradients, SHORT_INSPECTION_PASSES)):
        count = model.budget.count_images(passes * draws, most, INSPECTION_SHARE)
        if count >= min(MIN_INSPECTED_IMAGES, most):
            return inspect, count
    most = min(MAX_BRIEFLY_INSPECTED_IMAGES, available)
    count = model.budget.count_images(BRIEF_INSPECTION_PASSES * draws, most, INSPECTION_SHARE)
    least = model.budget.count_images(BRIEF_INSPECTION_PASSES * draws, min(2, most), BRIEF_INSPECTION_SHARE)
    count = max(count, least)
    return (inspect_briefly, count) if count else (None, 0)


def _run_diagnostic(diagnostic: Diagnostic, model: DiagnosedModel, problem: str) -> DiagnosticResult:
    if problem:
        return diagnostic.build_result(model, build_unread(problem))
    spent: list[int] = [0, 0]
    reading: Reading
    try:
        with model.track_passes(len(model.images)) as spent:
            reading = _repeat_with_less(model, lambda: diagnostic.check_model(model))
    except Exception as failure:  # noqa: BLE001 - a model may do anything
        reading = build_unread(_describe_failure(failure))
    return diagnostic.build_result(model, reading, (spent[0], spent[1]))


def _repeat_with_less(model: DiagnosedModel, ask: Callable[[], Finding]) -> Finding:
    """Return what a function finds; again with fewer images at once where memory runs out."""
    return model.classifier.memory_limit.repeat_with_less(ask, len(model.images))


def _describe_failure(failure: Exception) -> str:
    return f"{RAISED_REASON} {type(failure).__name__}: {extract_first_line(failure)}"
