"""The columns of a grid, and the cells where they meet the models."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from robustbench_local.attacks import make_attack
from robustbench_local.attacks.base import Attack
from robustbench_local.attacks.physical.eot import EOTAttack
from robustbench_local.certification import make_certificate
from robustbench_local.config.cards import Card
from robustbench_local.config.hyperparameters import list_parameter_names
from robustbench_local.errors import ConfigError, RobustbenchError
from robustbench_local.evaluation.grid.card_lookup import find_cards_per_target, find_method_cards
from robustbench_local.evaluation.grid.schema import AttackEntry, Grid
from robustbench_local.evaluation.grid.surrogate_checks import (
    NAIVE_NOTE,
    check_surrogate,
    format_transfer_note,
)
from robustbench_local.evaluation.harness.sticker_job import TEST_VIEWS
from robustbench_local.evaluation.planning.cells import CellSpec, GridColumn, build_cell_spec
from robustbench_local.evaluation.planning.certificate_columns import CertificateColumn, plan_certificate_cell
from robustbench_local.evaluation.planning.plan import AttackCell, EvaluationSubject, PlannedCell, StickerCell
from robustbench_local.evaluation.planning.sticker_surface import build_surface_record

BF16_NOTE = (
    "searched in bf16, which misses some breaks of robust networks; every success is confirmed in fp32"
)
"""What a reader has to know of a cell whose search was not in full precision."""


@dataclass(frozen=True, kw_only=True)
class AttackColumn(GridColumn):
    """One attack of the grid under one threat model."""

    attack: Attack
    """The attack built from the card."""
    surrogate: str | None = None
    """Id of the model that candidates are crafted on; None: each model by itself."""
    naive: bool = False
    """Whether candidates are crafted on the model without its defense."""
    test_views: int = TEST_VIEWS
    """Views that a sign is judged over, where the attack is a sticker or a patch."""

    @property
    def name(self) -> str:
        """The card's name; with what the candidates are crafted on if that is not the model itself."""
        origin = "[naive]" if self.naive else f"[from={self.surrogate}]" if self.surrogate else ""
        return self.card.name + origin


def resolve_columns(grid: Grid, folders: Sequence[Path]) -> list[AttackColumn | CertificateColumn]:
    """Every attack and certificate of the grid with its overrides applied, in order.

    Args:
        grid: The grid.
        folders: Folders with the user's own cards.

    Raises:
        CardError: If a card is unknown or malformed.
        ConfigError: If an override is wrong, or two entries mean the same cell.
    """
    found: list[AttackColumn | CertificateColumn] = []
    for entry in grid.attacks:
        find = find_cards_per_target if entry.each_target else find_method_cards
        for card in find(entry.card, entry.overrides, folders):
            column = _build_column(card, entry)
            if column.name in {other.name for other in found}:
                raise ConfigError(f"the {card.kind} {column.name!r} is listed twice", where="attacks")
            found.append(column)
    return found


def _build_column(card: Card, entry: AttackEntry) -> AttackColumn | CertificateColumn:
    models = None if entry.models is None else tuple(entry.models)
    if card.kind != "certificate":
        attack = make_attack(card.method, card.parameters)
        _check_views(attack, entry, card.name)
        surrogate, views = entry.transfer_from, entry.test_views or TEST_VIEWS
        return AttackColumn(
            card=card,
            attack=attack,
            limit=entry.limit,
            models=models,
            entry_name=entry.name,
            surrogate=surrogate,
            test_views=views,
        )
    if entry.transfer_from is not None:
        raise ConfigError(f"the certificate {card.name!r} has nothing to transfer", where="attacks")
    certificate = make_certificate(card.method, card.parameters)
    return CertificateColumn(
        card=card, certificate=certificate, limit=entry.limit, models=models, entry_name=entry.name
    )


def _check_views(attack: Attack, entry: AttackEntry, name: str) -> None:
    """Refuse what only stickers and patches have, and what they do not have."""
    viewed = isinstance(attack, EOTAttack)
    if entry.test_views is not None and not viewed:
        remedy = "leave test_views out: it is for stickers and patches"
        raise ConfigError(f"{name!r} has no views to test", where="attacks", remedy=remedy)
    if entry.transfer_from is not None and viewed:
        remedy = "leave transfer_from out"
        raise ConfigError(f"{name!r} is judged on its own model only", where="attacks", remedy=remedy)


def plan_cells(
    grid: Grid,
    models: Mapping[str, EvaluationSubject],
    subjects: Sequence[EvaluationSubject],
    columns: Sequence[AttackColumn | CertificateColumn],
    code: str,
) -> Iterator[PlannedCell]:
    """Every square of the grid, in its order.

    Args:
        grid: The grid.
        models: The models as they were loaded, by id: what candidates are transferred from.
        subjects: The models with their defenses.
        columns: The attacks and certificates.
        code: Version of the code that decides verdicts.

    Raises:
        RobustbenchError: If an attack could not run on any model like this one.
    """
    position = itertools.count()
    for subject in subjects:
        given = {"data": subject.data.compute_digest(), "seed": str(grid.seed), "code": code}
        given["defense"] = subject.defense
        for column in columns:
            if column.models is not None and subject.id not in column.models:
                continue
            if isinstance(column, CertificateColumn):
                yield plan_certificate_cell(grid, subject, column, given, next(position))
                continue
            surrogate = models[column.surrogate] if column.surrogate else None
            cell = _plan_attack_cell(grid, subject, column, surrogate, given, next(position))
            yield _convert_to_sticker_cell(cell, column)
            if _should_attack_naively(subject, column):
                naive = replace(column, naive=True, attack=_disable_early_stop(column.attack))
                yield _plan_attack_cell(grid, subject, naive, subject.undefended, given, next(position))


def _disable_early_stop(attack: Attack) -> Attack:
    """The attack without its early stop, if it has one: a first success says little about another model."""
    patient = {"early_stop": False} if "early_stop" in list_parameter_names(type(attack)) else {}
    return replace(attack, **patient)


def _should_attack_naively(subject: EvaluationSubject, column: AttackColumn) -> bool:
    """Whether an attack follows gradients, which it would find otherwise in the model without its wrapper.

    Nobody who averages over draws is naive about a model that draws.
    """
    undefended = subject.undefended
    if isinstance(column.attack, EOTAttack) or column.attack.eot_samples > 1:
        return False
    if undefended is None or column.surrogate is not None or column.attack.access != "gradients":
        return False
    return undefended.classifier.access == "gradients"


def _plan_attack_cell(
    grid: Grid,
    subject: EvaluationSubject,
    column: AttackColumn,
    surrogate: EvaluationSubject | None,
    run_identity: dict[str, str],
    position: int,
) -> AttackCell:
    crossing, attack = build_cell_spec(column, subject, grid.seed), column.attack
    search = grid.search_precision if attack.uses_engine else "fp32"
    what = {"attack": repr(attack), "search": search}
    if isinstance(attack, EOTAttack):
        what["test views"] = str(column.test_views)
    notes = [attack.describe_caveats((surrogate or subject).classifier, crossing.threat)]
    if surrogate:
        what["surrogate"] = surrogate.digest
        notes.append(NAIVE_NOTE if column.naive else format_transfer_note(surrogate.id))
    if search == "bf16":
        notes.append(BF16_NOTE)
    record = crossing.build_record(
        position,
        method_identity=what,
        run_identity=run_identity,
        parameters=asdict(attack),
        note="; ".join(filter(None, notes)),
        knowledge="naive" if column.naive else "transfer" if surrogate else attack.knowledge,
        surrogate=column.surrogate,
        measure=attack.measure,
        surface=build_surface_record(subject.data, crossing.positions, crossing.threat),
    )
    unusable = subject.problem or (surrogate and surrogate.problem)  # the cell is an error, then
    return AttackCell(
        record=record,
        subject=subject,
        attack=attack,
        threat=crossing.threat,
        positions=crossing.positions,
        skip_reason=None if unusable else _find_skip_reason(crossing, attack, surrogate, naive=column.naive),
        surrogate=surrogate,
    )


def _convert_to_sticker_cell(cell: AttackCell, column: AttackColumn) -> AttackCell:
    """The cell as one about views, where the attack is a sticker or a patch."""
    if not isinstance(cell.attack, EOTAttack):
        return cell
    return StickerCell(**{**vars(cell), "test_views": column.test_views})


def _find_skip_reason(
    crossing: CellSpec, attack: Attack, surrogate: EvaluationSubject | None, *, naive: bool
) -> str | None:
    """Why a cell cannot run on this model; what is wrong whatever the model is raised instead."""
    threat, subject = crossing.threat, crossing.subject
    if not len(crossing.positions):
        return "no image of the data has this goal: none is of a source class outside the targets"
    if threat.region == "mask" and subject.data.masks is None:
        return "the threat is confined to a mask, and the data have none"
    if surrogate and not naive and (surrogate.id == subject.id or surrogate.digest == subject.digest):
        return "the candidates are crafted on this very model: that would be no transfer"
    if surrogate:
        check_surrogate(attack, threat, surrogate.classifier, surrogate.data, subject.data)
        return None
    try:
        attack.check_support(threat, subject.classifier)
    except RobustbenchError as problem:
        if subject.classifier.access == "gradients":
            raise
        return str(problem)
    return None
