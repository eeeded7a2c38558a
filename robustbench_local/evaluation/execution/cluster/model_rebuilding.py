"""Models that cannot be pickled, such as compiled programs: a node loads them again from their source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.settings import ClassifierSettings
from robustbench_local.classifier.wrapper import find_innermost
from robustbench_local.errors import ModelError, RobustbenchError
from robustbench_local.evaluation.grid.schema import ModelEntry, load_grid
from robustbench_local.evaluation.planning.model_loading import load_entry
from robustbench_local.evaluation.planning.plan import EvaluationSubject, Plan
from robustbench_local.extensions.code_permission import permit_code

SAMPLE_IMAGES = 8
"""Number of images that travel for the check of a converted model."""


def describe_rebuilding(plan: Plan, cloudpickle: Any) -> Callable[[Classifier], bytes | None]:
    """Return a function that describes how a node loads a model of a plan again.

    Args:
        plan: The plan.
        cloudpickle: Ray's module of that name.

    Returns:
        A function from a classifier to the pickle of a function that returns it; None for a model that is no
        entry of the grid.
    """
    entries = {entry.id: entry for entry in load_grid(plan.description["grid"])[0].models}
    by_model: dict[int, EvaluationSubject] = {}
    for subject in plan.subjects:
        if subject.problem is None and subject.id in entries:
            by_model.setdefault(id(find_innermost(subject.classifier)), subject)
    circumstances = {
        "default_classes": plan.data.num_classes,
        "image_shape": plan.data.image_shape,
        "default_class_names": plan.data.class_names if plan.data.has_class_names else None,
        "sample_images": plan.data.images[:SAMPLE_IMAGES].clone(),
        "base_folder": plan.base_folder,
    }

    def describe(classifier: Classifier) -> bytes | None:
        subject = by_model.get(id(classifier))
        if subject is None:
            return None
        digest = classifier.compute_digest()
        settings, notes = classifier.settings, tuple(classifier.notes)
        call = partial(rebuild_classifier, entries[subject.id], circumstances, digest, settings, notes)
        return bytes(cloudpickle.dumps(call))

    return describe


def rebuild_classifier(
    entry: ModelEntry,
    circumstances: dict[str, Any],
    digest: str,
    settings: ClassifierSettings,
    notes: tuple[str, ...],
) -> Classifier:
    """Load a model on a node.

    Args:
        entry: The model in the grid.
        circumstances: Arguments of `load_entry` that come from the data.
        digest: Digest of the model that the driver loaded.
        settings: Its settings.
        notes: Its notes.

    Raises:
        ModelError: If the node lacks its file, or has another one.
    """
    folder = Path(circumstances["base_folder"])
    try:
        with permit_code(True, folder):  # the user allowed it where the plan was made
            classifier = load_entry(entry, device="cpu", allow_code=True, **circumstances)
    except RobustbenchError as error:
        remedy = "put its file at the same path on every node, or use --executor local"
        raise ModelError(f"cannot be loaded on a node: {error}", where=entry.id, remedy=remedy) from error
    if classifier.compute_digest() != digest:
        remedy = "put the same file on every node"
        raise ModelError("is another model on a node than here", where=entry.id, remedy=remedy)
    classifier.configure(**asdict(settings) | {"consistency": settings.consistency})
    for note in notes:
        classifier.add_note(note)
    return classifier
