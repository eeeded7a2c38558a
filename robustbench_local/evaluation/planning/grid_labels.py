"""Unique table labels for the models, attacks and certificates of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from robustbench_local.certification import CERTIFICATES
from robustbench_local.config.cards import Card
from robustbench_local.data.dataset import Dataset
from robustbench_local.evaluation.grid.schema import NO_DEFENSE, AttackEntry, Grid
from robustbench_local.evaluation.planning.defended_models import GridDefense
from robustbench_local.evaluation.planning.entry_cards import format_method_name
from robustbench_local.evaluation.planning.plan import CellSpec, EvaluationSubject
from robustbench_local.evaluation.planning.short_labels import (
    LabelledAttack,
    build_attack_labels,
    build_family_labels,
    build_model_label,
    make_unique,
    shorten_text,
)
from robustbench_local.store.run_labels import RunLabels


def build_run_labels(
    grid: Grid,
    data: Dataset,
    subjects: Sequence[EvaluationSubject],
    defenses: Mapping[str, Sequence[GridDefense]],
    cards: Sequence[tuple[AttackEntry, Card]],
    cells: Sequence[CellSpec],
) -> RunLabels:
    """Build labels for the models, with and without defenses, and for attacks and certificates with cells.

    Args:
        grid: The grid, whose entries may have names.
        data: The images, whose class names goals refer to.
        subjects: The models with their defenses.
        defenses: The defenses of each model, by its id.
        cards: The attacks and certificates: entries with their cards.
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
        for entry, card in cards
        for attack in _list_labelled_attacks(entry, card, names)
        if attack.identifier in planned
    ]
    return RunLabels(
        attacks=build_attack_labels(attacks, data.class_names),
        families=build_family_labels(attacks, data.class_names),
        models=make_unique(models),
    )


def _list_labelled_attacks(
    entry: AttackEntry, card: Card, model_names: Mapping[str, str]
) -> list[LabelledAttack]:
    """List the attack of an entry, and the same attack crafted on the model without its defense."""
    attack = LabelledAttack(identifier=format_method_name(card, entry), card=card, name=entry.name)
    if card.kind == "certificate":
        return [replace(attack, suffix="claimed") if CERTIFICATES.is_outside(card.method) else attack]
    if entry.transfer_from is not None:
        suffix = f"transferred from {shorten_text(model_names[entry.transfer_from], 30)}"
        return [replace(attack, suffix=suffix)]
    naive = format_method_name(card, entry, is_naive=True)
    return [attack, replace(attack, identifier=naive, suffix="non-adaptive")]
