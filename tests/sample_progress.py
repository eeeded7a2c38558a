"""A plan without models, and a clock that stands still, for the tests of progress displays."""

from __future__ import annotations

from types import SimpleNamespace

from robustbench_local.store.records import OutcomeCounts, count_outcomes
from robustbench_local.store.run_labels import RunLabels

MODELS = ("plain", "robust")
ATTACKS = ("fgsm", "pgd", "autoattack")


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Model:
    """A classifier that counts no passes but those that a test sets."""

    passes = 0

    def count_current_passes(self):
        return self.passes


def make_cell(model, attack, *, images=100, passes=1000, measure="ball", skip_reason=None, problem=None):
    """A cell of a plan, as far as displays look at it; ``passes`` is per image."""
    return SimpleNamespace(
        record=SimpleNamespace(
            model=model, defense="none", attack=attack, key=f"{model}/{attack}", measure=measure
        ),
        positions=range(images),
        image_count=images,
        max_passes=(images * passes, 0),
        skip_reason=skip_reason,
        problem=problem,
        threat=SimpleNamespace(targets=()),
        queried_subject=SimpleNamespace(classifier=Model()),
    )


def make_plan(cells=None, *, groups=None, labels=None, stop=None):
    """A plan of two models and three attacks, or of these cells."""
    cells = cells or [make_cell(model, attack) for model in MODELS for attack in ATTACKS]
    data = SimpleNamespace(group_by_image=groups or {}, __len__=lambda: 100)
    return SimpleNamespace(
        name="sample",
        cells=tuple(cells),
        data=_Data(data),
        labels=labels or RunLabels(),
        seed=0,
        stop=stop,
    )


class _Data:
    def __init__(self, facts):
        self.group_by_image = facts.group_by_image

    def __len__(self):
        return 100


def make_counts(n, robust, *, passes=0, seconds=0.0, clean_correct=None) -> OutcomeCounts:
    """Counts of finished images; the others of them are misclassified under attack."""
    correct = n if clean_correct is None else clean_correct
    changes = {
        "n": n, "clean_correct": correct, "robust": robust, "broken": correct - robust,
        "forward_passes": passes, "seconds": seconds,
    }  # fmt: skip
    return OutcomeCounts(**{**vars(count_outcomes(())), **changes})
