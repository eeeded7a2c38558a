"""The cells of a grid: each of its attacks and certificates on each of its models."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, cast

from robustbench_local.attacks.base import Attack
from robustbench_local.certification.base import Certificate
from robustbench_local.config.cards import Card, CardThreat
from robustbench_local.config.hyperparameters import list_parameter_names
from robustbench_local.evaluation.grid.schema import AttackEntry, Grid
from robustbench_local.evaluation.grid.surrogate_checks import NAIVE_NOTE, format_transfer_note
from robustbench_local.evaluation.harness.attack_goal import AttackGoal, resolve_goal
from robustbench_local.evaluation.harness.cell_key import cell_key
from robustbench_local.evaluation.harness.sticker_job import TEST_VIEWS
from robustbench_local.evaluation.harness.twin_agreement import format_twin_note
from robustbench_local.evaluation.planning.entry_cards import format_method_name, make_method
from robustbench_local.evaluation.planning.outside_code import check_outside_method, describe_code
from robustbench_local.evaluation.planning.plan import CellSpec, EvaluationSubject
from robustbench_local.evaluation.planning.skip_reasons import find_attack_obstacle, find_certificate_obstacle
from robustbench_local.evaluation.planning.sticker_surface import build_surface_record
from robustbench_local.store.records import CellRecord

BF16_NOTE = (
    "searched in bf16, which misses some adversarial examples of robust networks; every success is "
    "verified in fp32"
)
"""Note on a cell whose search was not in full precision."""


def build_cells(
    grid: Grid,
    models: Mapping[str, EvaluationSubject],
    subjects: Sequence[EvaluationSubject],
    cards: Sequence[tuple[AttackEntry, Card]],
    code: str,
) -> Iterator[CellSpec]:
    """Build every cell of the grid, in its order.

    Args:
        grid: The grid.
        models: The loaded models by id, the possible surrogates of transfer attacks.
        subjects: The models with their defenses.
        cards: The attacks and certificates: entries with their cards.
        code: Version of the code that decides verdicts.

    Raises:
        RobustbenchError: If an attack could not run on any model like this one.
    """
    methods = [(entry, card, make_method(card)) for entry, card in cards]
    position = itertools.count()
    for subject in subjects:
        builder = _CellBuilder(grid, subject, position, code)
        for entry, card, method in methods:
            if entry.models is not None and subject.id not in entry.models:
                continue
            if isinstance(method, Certificate):
                yield builder.build_certificate_cell(entry, card, method)
                continue
            surrogate = models[entry.transfer_from] if entry.transfer_from else None
            yield builder.build_attack_cell(entry, card, method, surrogate)
            if _should_attack_naively(subject, entry, method):
                naive = _disable_early_stop(method)
                yield builder.build_attack_cell(entry, card, naive, subject.undefended, is_naive=True)


def _disable_early_stop(attack: Attack) -> Attack:
    """Disable an attack's early stop, if it has one: a success on the surrogate may not transfer."""
    changes = {"early_stop": False} if "early_stop" in list_parameter_names(type(attack)) else {}
    return replace(attack, **changes)


def _should_attack_naively(subject: EvaluationSubject, entry: AttackEntry, attack: Attack) -> bool:
    """Check whether an attack follows gradients that differ in the model without its wrapper.

    An attack that averages over draws already adapts to a model that draws.
    """
    undefended = subject.undefended
    if attack.measure == "views" or attack.eot_samples > 1:
        return False
    if undefended is None or entry.transfer_from is not None or attack.access != "gradients":
        return False
    return undefended.classifier.access == "gradients"


def _format_claim_note(certificate: Certificate, card: Card) -> str:
    """Name the external code that a certificate's verdicts rely on; empty for this package's own."""
    if not describe_code(certificate):
        return ""
    return f"claimed by {card.source}, and not verified: only attacks can contradict a certificate"


class _CellBuilder:
    """Builds the cells of one model.

    Args:
        grid: The grid.
        subject: The model with its defense.
        position: Returns the next cell's position in the grid.
        code: Version of the code that decides verdicts.
    """

    def __init__(self, grid: Grid, subject: EvaluationSubject, position: Iterator[int], code: str) -> None:
        self.grid, self.subject, self.position = grid, subject, position
        self.run_identity = {
            "data": subject.data.compute_digest(),
            "seed": str(grid.seed),
            "code": code,
            "defense": subject.defense,
        }

    def build_attack_cell(
        self,
        entry: AttackEntry,
        card: Card,
        attack: Attack,
        surrogate: EvaluationSubject | None,
        *,
        is_naive: bool = False,
    ) -> CellSpec:
        """Build the cell of an attack on the model.

        Args:
            entry: Its entry in the grid.
            card: The card of the entry.
            attack: The attack of the card.
            surrogate: The model that candidates are crafted on; None: the one under test.
            is_naive: Whether the surrogate is the model without its defense.

        Raises:
            RobustbenchError: If the attack could not run on any model like this one.
        """
        subject, goal = self.subject, self._resolve_goal(entry, card)
        check_outside_method(attack, goal.threat)
        test_views = entry.test_views or TEST_VIEWS
        search = self.grid.search_precision if attack.refills_batches else "fp32"
        identity = {"attack": repr(attack), "search": search, **describe_code(attack)}
        if attack.measure == "views":
            identity["test views"] = str(test_views)
        attacked = surrogate.classifier if surrogate else subject.attacked_classifier
        notes = [attack.describe_caveats(attacked, goal.threat)]
        twin = None if surrogate else subject.twin
        if twin:
            identity |= {"twin": twin.digest, "finish queries": str(subject.finish_queries)}
            notes.append(format_twin_note(twin.id, attack))
        if surrogate:
            identity["surrogate"] = surrogate.digest
            notes.append(NAIVE_NOTE if is_naive else format_transfer_note(surrogate.id))
        if search == "bf16":
            notes.append(BF16_NOTE)
        record = self._build_record(
            (entry, card),
            goal,
            name=format_method_name(card, entry, is_naive=is_naive),
            method_identity=identity,
            parameters=asdict(attack),
            note="; ".join(filter(None, notes)),
            knowledge="naive" if is_naive else "transfer" if surrogate else attack.get_knowledge_of(attacked),
            surrogate=entry.transfer_from,
            twin=twin.id if twin else None,
            measure=attack.measure,
            surface=build_surface_record(subject.data, goal.positions, goal.threat),
        )
        obstacle = find_attack_obstacle(attack, goal, subject, surrogate, is_naive=is_naive)
        return CellSpec(
            record=record,
            subject=subject,
            method=attack,
            threat=goal.threat,
            positions=goal.positions,
            seed=self.grid.seed,
            surrogate=surrogate,
            test_views=test_views,
            skip_reason=obstacle,
        )

    def build_certificate_cell(self, entry: AttackEntry, card: Card, certificate: Certificate) -> CellSpec:
        """Build the cell of a certificate for the model.

        Args:
            entry: Its entry in the grid.
            card: The card of the entry.
            certificate: The certificate of the card.

        Raises:
            ThreatError: If the certificate does not apply to the threat model on any model.
        """
        subject, goal = self.subject, self._resolve_goal(entry, card)
        check_outside_method(certificate, goal.threat)
        record = self._build_record(
            (entry, card),
            goal,
            name=format_method_name(card, entry),
            method_identity={"certificate": repr(certificate), **describe_code(certificate)},
            parameters=asdict(certificate),
            note="; ".join(
                filter(None, (_format_claim_note(certificate, card), certificate.describe_caveats()))
            ),
            measure=certificate.measure,
            concerns=certificate.get_concern(subject.classifier),
            alpha=certificate.error_probability,
        )
        return CellSpec(
            record=record,
            subject=subject,
            method=certificate,
            threat=goal.threat,
            positions=goal.positions,
            seed=self.grid.seed,
            skip_reason=find_certificate_obstacle(certificate, goal, subject),
        )

    def _resolve_goal(self, entry: AttackEntry, card: Card) -> AttackGoal:
        threat = cast("CardThreat", card.threat)  # these cards always have one
        return resolve_goal(threat, self.subject.data, limit=entry.limit, seed=self.grid.seed)

    def _build_record(
        self,
        entry_card: tuple[AttackEntry, Card],
        goal: AttackGoal,
        *,
        name: str,
        method_identity: Mapping[str, str],
        parameters: Mapping[str, Any],
        **method_fields: Any,
    ) -> CellRecord:
        """Build the stored record of a cell.

        Args:
            entry_card: The entry in the grid, and its card.
            goal: The threat model and the images.
            name: Name of the cell's method, unique among those of the model.
            method_identity: Everything that decides the verdicts besides model, data and goal.
            parameters: Hyper-parameters of the method.
            method_fields: Fields that only attacks or only certificates have.
        """
        (entry, card), subject, threat = entry_card, self.subject, goal.threat
        about = {"threat": repr(threat), "sources": str(goal.sources), "limit": str(entry.limit)}
        identity = {"model": subject.digest, **self.run_identity, **method_identity, **about}
        return CellRecord(
            key=cell_key({**identity, "id": subject.id, "name": name}),
            position=next(self.position),
            model=subject.id,
            defense=subject.defense,
            attack=name,
            card=card.base_name,
            norm=threat.norm,
            eps=threat.eps,
            threat=threat.name,
            goal=threat.goal,
            targets=threat.targets,
            sources=goal.sources,
            images=len(goal.positions),
            excluded=goal.excluded,
            parameters={"method": card.method, **parameters},
            identity=identity,
            **method_fields,
        )
