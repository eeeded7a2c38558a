"""A made-up run of many outcomes, without a model."""

from __future__ import annotations

import numpy as np

from robustbench_local.store import CellRecord, OutcomeRecord

CLASSES = 10
_ATTACKS, _EPS = ("fgsm", "pgd50", "autoattack"), (1, 2, 4, 8, 16)


def describe_run(images: int) -> dict[str, object]:
    names = [f"class {label}" for label in range(CLASSES)]
    data = {"name": "size", "split": "test", "n": images, "image_shape": [3, 224, 224], "class_names": names}
    data["labels_per_class"] = {str(label): images // CLASSES for label in range(CLASSES)}
    models = [{"id": f"model {number}", "num_classes": CLASSES} for number in range(2)]
    return {"data": data, "models": models, "gates": [], "seed": 0, "environment": {}, "grid": {}}


def make_cell(number: int, images: int) -> CellRecord:
    model, column = number % 2, number // 2
    attack, eps = _ATTACKS[column % len(_ATTACKS)], _EPS[column // len(_ATTACKS) % len(_EPS)]
    name = f"{attack}-linf-{eps}" + ("" if number < 30 else f"-{number}")
    return CellRecord(
        key=f"{number:064x}", position=number, model=f"model {model}", defense="none", attack=name,
        card=attack, norm="Linf", eps=eps / 255, threat=f"linf-{eps}", goal="untargeted", images=images,
    )  # fmt: skip


def make_outcomes(cell: CellRecord) -> list[OutcomeRecord]:
    """Make the outcomes of a cell; cells of one model agree on the clean images."""
    clean, own = np.random.default_rng(cell.position % 2), np.random.default_rng([cell.position, 1])
    count = cell.images
    correct = clean.random(count) < 0.9
    broken = correct & (clean.random(count) < min(0.95, 20 * cell.eps))
    labels = np.arange(count) % CLASSES
    others = (labels + 1 + clean.integers(CLASSES - 1, size=count)) % CLASSES
    final = np.where(correct & ~broken, labels, others)
    columns = (
        labels, np.where(correct, labels, others), final, correct, broken, own.normal(size=count),
        own.integers(1, 500, size=count), *own.random((3, count)),
    )  # fmt: skip
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [_make_outcome(cell, position, *row) for position, row in enumerate(rows)]


def _make_outcome(
    cell: CellRecord,
    position: int,
    label: int,
    first: int,
    last: int,
    correct: bool,
    broken: bool,
    margin: float,
    passes: int,
    *sizes: float,
) -> OutcomeRecord:
    return OutcomeRecord(
        cell=cell.key, position=position, image=f"class{label}/{position}.jpg", label=label,
        clean_prediction=first, adversarial_prediction=last, clean_correct=correct, broken=broken,
        moved_elsewhere=False, margin=0.5 if broken else margin, fragile=False,
        linf=cell.eps, l2=sizes[0], l1=sizes[1], broken_8bit=True if broken else None,
        forward_passes=passes, backward_passes=50, seconds=sizes[2],
        status="ok" if correct else "clean-wrong", original_hash=f"{position:016x}",
        adversarial_hash=f"{position + 1:016x}",
    )  # fmt: skip
