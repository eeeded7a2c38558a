"""The first look at every model of a plan: clean accuracy, and whether its preprocessing looks wrong."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.wrapper import WrappedClassifier
from robustbench_local.data.dataset import Dataset
from robustbench_local.errors import RobustbenchError
from robustbench_local.evaluation.harness.job import format_error_line
from robustbench_local.evaluation.isolation.child_process import can_fork
from robustbench_local.evaluation.isolation.isolated_call import call_isolated, catch_process_exit
from robustbench_local.evaluation.planning.plan import EvaluationSubject, Plan
from robustbench_local.evaluation.probes.preprocessing_probe import (
    FIRST_IMAGES,
    MORE_IMAGES,
    FormSearch,
    WorkClock,
    choose_check_images,
)
from robustbench_local.models.http_model import Endpoint
from robustbench_local.store.preprocessing_record import PREPROCESSING_CHECK_KEY, PreprocessingCheck
from robustbench_local.store.run_store import RunStore

MAX_SERVICE_IMAGES = 32
"""Images that a service is asked about: each question may cost money."""
MAX_SERVICE_SECONDS = 10.0
"""Seconds that these may take where the rate of requests is limited."""
_KnownChecks = Mapping[tuple[str, str, str], PreprocessingCheck]


def check_plan_models(plan: Plan, directory: Path) -> Plan:
    """Look at every model of a plan, unless the run in a directory has done so; model and state are kept.

    Args:
        plan: The plan; descriptions of its models get the record, those of wrapped ones that of the model
            without the wrapper.
        directory: The run directory, which may not exist yet.

    Returns:
        The plan with a warning for each model that another form of its images, or another order of its
        classes, suits better.
    """
    known, lines = _read_known_checks(directory), []
    checks: dict[int, PreprocessingCheck] = {}
    for subject in plan.subjects:
        base = subject.undefended or subject
        if base.problem is not None or isinstance(base.classifier, WrappedClassifier):
            continue
        if id(base.classifier) not in checks:
            names = [(one.id, one.defense, one.digest) for one in (base, subject)]
            stored = next((known[name] for name in names if name in known), None)
            checks[id(base.classifier)] = stored or check_subject(base, plan.timeout)
            if line := checks[id(base.classifier)].format_warning(str(base)):
                lines.append(line)
        subject.description[PREPROCESSING_CHECK_KEY] = checks[id(base.classifier)].to_json()
    return replace(plan, warnings=(*plan.warnings, *lines))


def check_subject(subject: EvaluationSubject, timeout: float | None) -> PreprocessingCheck:
    """Look at a model, in a child process where possible; one that fails is left to the evaluation.

    Args:
        subject: The model without a wrapper.
        timeout: Seconds that a pass may take; None for no limit.
    """
    classifier, data = subject.classifier, subject.data
    look = partial(_look_at_model, classifier, data)
    try:
        if classifier.settings.is_fork_safe and can_fork(classifier.device):
            return call_isolated(look, timeout=timeout, name=subject.id)
        with catch_process_exit(subject.id):
            return look()
    except Exception as problem:  # noqa: BLE001 - the work itself finds out which image it is about
        return PreprocessingCheck(unchecked=format_error_line(problem))


def _look_at_model(classifier: Classifier, data: Dataset) -> PreprocessingCheck:
    service = classifier.model if isinstance(classifier.model, Endpoint) else None
    first = FIRST_IMAGES if service is None else _count_service_images(service)
    chosen = data.select_images(choose_check_images(data, MORE_IMAGES if service is None else first))
    # where noise is added, a stronger contrast alone makes a sound model better
    draws = classifier.settings.consistency.draws_numbers
    with classifier.evaluation_mode(), classifier.open_fresh_copy() as model:
        return FormSearch(
            classifier=model,
            images=chosen.images,
            labels=chosen.labels,
            class_names=chosen.class_names,
            first=first,
            in_range=service is not None or draws,
            clock=WorkClock() if service is None else time.monotonic,
        ).run()


def _count_service_images(service: Endpoint) -> int:
    """Return how many images a service is asked about."""
    limit = service.count_images_within(MAX_SERVICE_SECONDS)
    return MAX_SERVICE_IMAGES if limit is None else min(MAX_SERVICE_IMAGES, limit)


def _read_known_checks(directory: Path) -> _KnownChecks:
    """Return the records of a run that is resumed, by id, defense and digest of the model."""
    with suppress(RobustbenchError, OSError), RunStore.open_readonly(directory) as store:
        return {
            (about["id"], about["defense"], about["digest"]): PreprocessingCheck.from_json(
                about[PREPROCESSING_CHECK_KEY]
            )
            for about in store.read_meta("models") or ()
            if PREPROCESSING_CHECK_KEY in about
        }
    return {}
