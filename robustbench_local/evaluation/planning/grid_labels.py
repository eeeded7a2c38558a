"""What a run calls its models, attacks and certificates in tables: no two alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from robustbench_local.data.dataset import Dataset
from robustbench_local.evaluation.grid.schema import NO_DEFENSE, Grid
from robustbench_local.evaluation.planning.attack_columns import AttackColumn
from robustbench_local.evaluation.planning.certificate_columns import CertificateColumn
from robustbench_local.evaluation.planning.defended_models import GridDefense
from robustbench_local.evaluation.planning.labels import (
    LabelledAttack,
    build_attack_labels,
    build_family_labels,
    build_model_label,
    make_unique,
    shorten_text,
)
from robustbench_local.evaluation.planning.plan import EvaluationSubject, PlannedCell
from robustbench_local.store.run_labels import RunLabels


def build_run_labels(
    grid: Grid,
    data: Dataset,
    subjects: Sequence[EvaluationSubject],
    defenses: Mapping[str, Sequence[GridDefense]],
    columns: Sequence[AttackColumn | CertificateColumn],
    cells: Sequence[PlannedCell],
) -> RunLabels:
    """Labels of the models, with and without defenses, and of the attacks and certificates that have cells.

    Args:
        grid: The grid, whose entries may have names.
        data: The images, whose class names goals refer to.
        subjects: The models with their defenses.
        defenses: The defenses of each model, by its id.
        columns: The attacks and certificates.
        cells: The cells of the plan.
    """
    names = {entry.id: entry.name or entry.id for entry in grid.models}
    defense_labels = {
        (model, defense.name): defense.label for model, known in defenses.items() for defense in known
    }
    models = {(model, NO_DEFENSE): build_model_label(name) for model, name in names.items()} | {
        (subject.id, subject.defense): build_model_label(
            names[subject.id], defense_labels[subject.id, subject.defense]
        )
        for subject in subjects
    }
    planned = {cell.record.attack for cell in cells}
    attacks = [
        attack
        for column in columns
        for attack in _list_labelled_attacks(column, names)
        if attack.identifier in planned
    ]
    return RunLabels(
        attacks=build_attack_labels(attacks, data.class_names),
        families=build_family_labels(attacks, data.class_names),
        models=make_unique(models),
    )


def _list_labelled_attacks(
    column: AttackColumn | CertificateColumn, model_names: Mapping[str, str]
) -> list[LabelledAttack]:
    """The attack of a column, and the same attack crafted on the model without its defense."""
    attack = LabelledAttack(identifier=column.name, card=column.card, name=column.entry_name)
    if isinstance(column, CertificateColumn):
        return [attack]
    if column.surrogate is not None:
        return [replace(attack, suffix=f"transferred from {shorten_text(model_names[column.surrogate], 30)}")]
    return [attack, replace(attack, identifier=replace(column, naive=True).name, suffix="non-adaptive")]
