"""Notes about a model made while it is attacked, stored for the report."""

from __future__ import annotations

from collections.abc import Iterable

from robustbench_local.evaluation.planning.plan import EvaluationSubject
from robustbench_local.store.run_store import RunStore


def save_model_notes(store: RunStore, subjects: Iterable[EvaluationSubject]) -> None:
    """Add the notes of these subjects' classifiers to the run's model descriptions.

    Args:
        store: The run, open for writing; its model descriptions were made before any attack.
        subjects: The models with their defenses; one that the run does not describe is skipped.
    """
    models = [dict(about) for about in store.read_meta("models") or ()]
    changed = False
    for subject in subjects:
        for about in models:
            if (about.get("id"), about.get("defense")) == (subject.id, subject.defense):
                known = list(about.get("notes") or ())
                fresh = [note for note in subject.classifier.notes if note not in known]
                about["notes"] = [*known, *fresh]
                changed |= bool(fresh)
    if changed:
        store.update_meta({"models": models})
