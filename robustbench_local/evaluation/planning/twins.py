"""The float twins of a grid's shipped models: loaded, compared with their model, and defended alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from robustbench_local.classifier.twin_view import check_twin
from robustbench_local.data.class_labels import describe_class_difference
from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.evaluation.grid.schema import ModelEntry
from robustbench_local.evaluation.harness.artefact_finish import FINISH_QUERIES
from robustbench_local.evaluation.harness.twin_agreement import (
    compare_clean_labels,
    format_low_agreement,
)
from robustbench_local.evaluation.planning.defended_models import GridDefense, WrapperDefense
from robustbench_local.evaluation.planning.plan import EvaluationSubject
from robustbench_local.models.endpoint_options import remove_credentials


def attach_twin(
    entry: ModelEntry,
    loaded: Mapping[str, EvaluationSubject],
    load: Callable[[ModelEntry], EvaluationSubject],
) -> EvaluationSubject:
    """Return a model with its twin, if it has one.

    Args:
        entry: The model in the grid.
        loaded: The models of the grid by id.
        load: Loads a model that the grid does not list.

    Raises:
        ConfigError: If the two do not fit each other.
    """
    subject = loaded[entry.id]
    if entry.twin is None:
        return subject
    source = remove_credentials(entry.twin.source)
    twin = loaded.get(entry.twin.source)
    if twin is None:
        twin = replace(load(entry.twin.model_copy(update={"id": f"twin of {entry.id}"})), id=source)
    if subject.problem is not None:
        return subject
    if twin.problem is not None:
        problem = ModelError(f"its twin {source} cannot be used: {twin.problem}", where=entry.id)
        return replace(subject, problem=problem)
    _check_fit(entry, subject, twin)
    queries = FINISH_QUERIES if entry.twin_queries is None else entry.twin_queries
    return _describe_twin(replace(subject, twin=twin, finish_queries=queries), twin)


def defend_twin(
    twin: EvaluationSubject, defended: EvaluationSubject, defense: GridDefense
) -> EvaluationSubject:
    """Return a defended model with its twin behind the same defense; a newly trained one has no twin.

    Args:
        twin: The twin as it was loaded.
        defended: The defended model.
        defense: The defense.
    """
    if defended.defense == twin.defense:
        return defended
    if not isinstance(defense, WrapperDefense):
        return replace(defended, twin=None)
    wrapped = replace(defense.apply_to_model(twin), id=twin.id)
    check_twin(defended.classifier, wrapped.classifier)
    return replace(defended, twin=wrapped)


def _check_fit(entry: ModelEntry, subject: EvaluationSubject, twin: EvaluationSubject) -> None:
    """Check access and classes of the two."""
    source, own = (
        remove_credentials(entry.twin.source if entry.twin else ""),
        remove_credentials(entry.source),
    )
    if twin.classifier.access != "gradients":
        what = f"its twin {source} gives no gradients to search with"
        remedy = "name its float network, such as zoo:NAME or checkpoint:FILE"
        if subject.classifier.access == "gradients":
            remedy = f"turn them round: source is what is shipped ({source}), twin its float network ({own})"
        raise ConfigError(what, where=f"model {entry.id!r}", remedy=remedy)
    difference = describe_class_difference(twin.data, subject.data)
    if difference:
        remedy = "name the float network that this model was made from"
        raise ConfigError(f"its twin {source}: {difference}", where=f"model {entry.id!r}", remedy=remedy)
    check_twin(subject.classifier, twin.classifier)


def _describe_twin(subject: EvaluationSubject, twin: EvaluationSubject) -> EvaluationSubject:
    """Compare the two on clean images, and add what was found to the model's description and notes."""
    agreement = compare_clean_labels(subject.classifier, twin.classifier, subject.data.images)
    low = format_low_agreement(agreement, twin.id)
    if low:
        subject.classifier.add_note(low)
    about: dict[str, Any] = {
        "id": twin.id,
        "source": twin.description["source"],
        "digest": twin.digest,
        "outputs": agreement.outputs,
        "same_labels": agreement.same,
        "compared": agreement.compared,
        "agrees": not agreement.is_low,
    }
    notes = list(subject.classifier.notes)
    return replace(subject, description={**subject.description, "notes": notes, "twin": about})
