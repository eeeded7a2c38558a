"""What a run found: cells, worst cases and comparisons, counted once for every form of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from robustbench_local.reports.analysis.sticker_views import SignResult, compute_attack_success
from robustbench_local.reports.formatting.text import format_budget, format_knowledge, get_attack_family
from robustbench_local.statistics import Comparison, Estimate, compute_clopper_pearson, compute_mcnemar
from robustbench_local.store import CellRecord, EventRecord, OutcomeCounts
from robustbench_local.store.run_labels import RunLabels

if TYPE_CHECKING:
    from robustbench_local.reports.analysis.worst_case import WorstCase

ReportedStatus = Literal["done", "void", "partial", "error", "timeout", "skipped", "not run"]


class ImageVerdict(NamedTuple):
    """What one attack did to one image."""

    clean_correct: bool
    """Read as its label clean."""
    broken: bool
    """Clean-correct and then broken."""
    robust: bool
    """Clean-correct, not broken, without an error."""

    @property
    def is_known(self) -> bool:
        """Whether the attack came to its end; an image on which it raised is neither broken nor robust."""
        return self.broken or self.robust or not self.clean_correct


@dataclass(frozen=True, kw_only=True)
class Threat:
    """What the attacker may do and to which images: the attacks that share it are taken together."""

    norm: str
    """``Linf``, ``L2``, ``L1``, ``spatial`` or ``corruption``."""
    eps: float
    """Radius in pixel units of [0, 1]; largest angle (spatial) or severity (corruption)."""
    name: str
    """Short name, e.g. ``linf-8``, ``spatial-30`` or ``fog-3``."""
    sources: tuple[int, ...] = ()
    """Only images of these classes; empty: all."""

    def __str__(self) -> str:
        kind = f"{self.kind}, " if self.norm == "corruption" else ""
        return kind + format_budget(self.norm, self.eps) + (", some classes only" if self.sources else "")

    @property
    def kind(self) -> str:
        """The name without its size: ``linf``, ``spatial``, or which corruption it is, e.g. ``fog``."""
        return self.name.rpartition("-")[0]


@dataclass(frozen=True, kw_only=True)
class EvaluatedModel:
    """A model as it was attacked: with its defense."""

    model: str
    """Model id from the grid file."""
    defense: str
    """Defense name, or ``none``."""
    label: str = field(default="", compare=False)
    """What tables call it; empty: its ids."""

    def __str__(self) -> str:
        return self.label or RunLabels().get_model_label(self.model, self.defense)


class QueryStats(NamedTuple):
    """Forward passes per image, over the correctly classified images: only these are attacked."""

    median: float | None
    """Over all of them; None if there are none."""
    largest: int | None
    """Most that any of them took."""
    median_broken: float | None
    """Over those that broke; None if none did."""
    largest_broken: int | None
    """Most that any of those took."""


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """A cell with its counts. Only a cell whose ``standing`` is ``done`` has shares."""

    record: CellRecord
    """The cell as stored."""
    tally: OutcomeCounts
    """Counts over the stored outcomes, whatever the standing."""
    verdicts: Mapping[str, ImageVerdict] = field(repr=False)
    """Image id -> verdict; empty unless done."""
    reported_status: ReportedStatus
    """Where the cell stands, as far as a reader is concerned."""
    query_stats: QueryStats
    """Forward passes over the stored outcomes."""
    problem: str | None = None
    """Why it is not done, in one line."""
    labels: RunLabels = field(default_factory=RunLabels, repr=False)
    """What tables of the run call its attacks and models."""
    radii: Mapping[str, float] = field(default_factory=dict, repr=False)
    """Image id -> the distance at which it broke, infinite if it did not, 0 if it never held; empty
    unless done and the attack measures distances."""
    success_norms: Mapping[str, Mapping[str, float]] = field(default_factory=dict, repr=False)
    """Image id -> norm -> the length of the change that broke it; whatever the standing."""
    success_8bit: Mapping[str, bool | None] = field(default_factory=dict, repr=False)
    """Image id -> whether what broke it is a success as an 8-bit image, too; None if its ball has no such
    image. Only images that broke, whatever the standing."""
    certified_radii: Mapping[str, float] = field(default_factory=dict, repr=False)
    """Image id -> the distance within which a certificate proved that it is classified correctly; whatever
    the standing. Images without a proof are not in it."""
    final_predictions: Mapping[str, tuple[int | None, int]] = field(default_factory=dict, repr=False)
    """Image id -> what it was classified as in the end, and its label, over the images that are read
    correctly clean; empty unless done."""
    successful_stages: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Image id -> the stage of an ensemble that broke it; only images whose stage is known."""
    gradient_images: frozenset[str] = field(default=frozenset(), repr=False)
    """Ids of the images whose gradients the attack looked at; empty unless done."""
    useless_gradient_images: frozenset[str] = field(default=frozenset(), repr=False)
    """Those of them on which half or more of the gradients showed nothing to follow."""
    signs: tuple[SignResult, ...] = field(default=(), repr=False)
    """Every look at each image, where the cell is about views."""

    @property
    def subject(self) -> EvaluatedModel:
        """The model and defense under test."""
        model, defense = self.record.model, self.record.defense
        label = self.labels.get_model_label(model, defense)
        return EvaluatedModel(model=model, defense=defense, label=label)

    @property
    def label(self) -> str:
        """What tables call the attack or certificate; no other one of the run is called so."""
        return self.labels.get_attack_label(self.record.attack)

    @property
    def family_label(self) -> str:
        """The same without the budget: attacks that differ in nothing else share it."""
        attack = self.record.attack
        return self.labels.families.get(attack) or get_attack_family(attack)

    @property
    def surrogate_label(self) -> str | None:
        """What tables call the model that the candidates were crafted on, if that is another one."""
        surrogate = self.record.surrogate
        return surrogate and self.labels.get_model_label(surrogate, "none")

    @property
    def threat(self) -> Threat:
        """What the attacker may do."""
        cell = self.record
        return Threat(norm=cell.norm, eps=cell.eps, name=cell.threat, sources=cell.sources)

    @property
    def targeted(self) -> bool:
        """Whether only certain classes count as success."""
        return self.record.goal == "targeted"

    @property
    def transferred(self) -> bool:
        """Whether the candidates were crafted on another model: never mixed with attacks on this one."""
        return self.record.knowledge == "transfer"

    @property
    def is_naive(self) -> bool:
        """Whether the candidates were crafted on the model without its defense."""
        return self.record.knowledge == "naive"

    @property
    def has_external_candidates(self) -> bool:
        """Whether the candidates were crafted on anything but what is under test."""
        return self.transferred or self.is_naive

    @property
    def is_self_transfer(self) -> bool:
        """Whether it would transfer from a model to that same model: an empty place of the grid."""
        return self.transferred and self.record.surrogate == self.record.model

    @property
    def is_corruption(self) -> bool:
        """Whether the images were corrupted by chance and not by an adversary."""
        return self.record.norm == "corruption"

    @property
    def is_certificate(self) -> bool:
        """Whether proofs were sought instead of adversarial images."""
        return self.record.measure == "certificate"

    @property
    def is_sticker(self) -> bool:
        """Whether each image is a sign that was looked at from many views."""
        return self.record.measure == "views"

    @property
    def is_in_worst_case(self) -> bool:
        """Whether it is an untargeted attack on this very model, which a worst case is made of."""
        return not (
            self.targeted
            or self.has_external_candidates
            or self.is_corruption
            or self.is_certificate
            or self.is_sticker
        )

    @property
    def attacker_knowledge(self) -> str:
        """What the attacker saw of the model, in few words."""
        return format_knowledge(self.record.knowledge, self.surrogate_label)

    @property
    def is_done(self) -> bool:
        """Whether every image has a verdict that counts."""
        return self.reported_status == "done"

    @property
    def clean_accuracy(self) -> Estimate:
        """Share of all the cell's images that are classified correctly without attack."""
        return self._estimate_share(self.tally.clean_correct, self.tally.n)

    @property
    def robust_accuracy(self) -> Estimate:
        """Share of all the cell's images that are read correctly and stay unbroken (V5)."""
        return self._estimate_share(self.tally.robust, self.tally.n, attacked=True)

    @property
    def attack_success(self) -> Estimate:
        """Share of the clean-correct images that were broken (V5)."""
        return self._estimate_share(self.tally.broken, self.tally.clean_correct, attacked=True)

    @property
    def attack_success_8bit(self) -> Estimate:
        """The same after the candidates were rounded to 8 bits (V4)."""
        return self._estimate_share(self.tally.broken_8bit, self.tally.clean_correct, attacked=True)

    @property
    def certified_accuracy(self) -> Estimate:
        """Share of all the cell's images that are proven to be read correctly everywhere in the ball."""
        return self._estimate_share(self.tally.certified, self.tally.n, attacked=False)

    @property
    def sticker_success(self) -> Estimate:
        """Share of the views that end as the attacker wants, where the clean sign is classified correctly."""
        counted = (sign for sign in self.signs if sign.is_counted and self.is_done)
        return compute_attack_success(counted, "sticker", self.record.targets)

    def _estimate_share(self, k: int, n: int, *, attacked: bool | None = None) -> Estimate:
        """A share of a done cell; unknown where it is a matter of attacks, or of certificates, alone."""
        meant = attacked is None or attacked != self.is_certificate
        return compute_clopper_pearson(k, n) if self.is_done and meant else compute_clopper_pearson(0, 0)


@dataclass(frozen=True, kw_only=True)
class ModelComparison:
    """Two subjects compared on the same images under the same threat."""

    first: EvaluatedModel
    """The one that held more often, or the earlier one."""
    second: EvaluatedModel
    """The other."""
    threat: Threat
    """What the attacker may do."""
    comparison: Comparison
    """McNemar's exact test on their worst cases."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that the forms of the report are made from."""

    cells: tuple[CellResult, ...]
    """In the order of the grid."""
    worst_cases: tuple[WorstCase, ...]
    """Untargeted threats, in the order of their first cell."""
    events: tuple[EventRecord, ...] = ()
    """What happened on the way."""
    identity: Mapping[str, str] = field(default_factory=dict)
    """What makes this run this run."""
    question: str | None = None
    """The user's own words for what is asked."""
    seed: int | None = None
    """The run's seed."""
    grid: Mapping[str, Any] = field(default_factory=dict)
    """The resolved grid."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """What is known about the images."""
    models: Sequence[Mapping[str, Any]] = ()
    """What is known about the models."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Versions and machine, no environment variables."""
    gates: Sequence[Mapping[str, Any]] = ()
    """The grid's gates."""
    has_begun: bool = True
    """Whether the run came as far as writing down its cells or its gates before it was stopped."""
    severity_costs: Mapping[str, Any] = field(default_factory=dict)
    """Costs of misclassifications by model (misclassification_severity.py); empty if the run has none."""
    has_unchecked_rows: bool = False
    """Whether some rows are older than their digests: damage from before then would go unnoticed."""
    damaged_images: Mapping[str, str] = field(default_factory=dict)
    """Key of a cell -> why its adversarial images are not shown; empty where nobody looked at them."""
    card_texts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Card -> its ``description`` and ``source``, as it ships; empty if the run does not know."""
    labels: RunLabels = field(default_factory=RunLabels)
    """What tables call the attacks and models."""
    derived: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Results of ``compute_once``; a changed copy begins without any."""

    @property
    def subjects(self) -> tuple[EvaluatedModel, ...]:
        """Models with their defenses, in the order of the grid."""
        return tuple(dict.fromkeys(cell.subject for cell in self.cells))

    @property
    def attack_cells(self) -> tuple[CellResult, ...]:
        """The cells in which adversarial images were sought."""
        return tuple(cell for cell in self.cells if not cell.is_certificate)

    @property
    def certificate_cells(self) -> tuple[CellResult, ...]:
        """The cells in which proofs were sought."""
        return tuple(cell for cell in self.cells if cell.is_certificate)

    @property
    def threats(self) -> tuple[Threat, ...]:
        """Untargeted threats, in the order of the grid."""
        return tuple(dict.fromkeys(worst.threat for worst in self.worst_cases))

    @property
    def headline_threat(self) -> Threat | None:
        """The untargeted threat that the answer is about: a norm's if there is one, and with most attacks."""
        attacks = dict.fromkeys(self.threats, 0)
        for worst in self.worst_cases:
            attacks[worst.threat] = max(
                attacks[worst.threat], len(worst.attacks) + len(worst.missing_attacks)
            )
        return max(attacks, key=lambda threat: (threat.norm != "spatial", attacks[threat]), default=None)

    def get_worst_case(self, subject: EvaluatedModel, threat: Threat) -> WorstCase | None:
        """A subject's worst case under a threat, if the grid has one."""
        found = (one for one in self.worst_cases if one.subject == subject and one.threat == threat)
        return next(found, None)

    def compute_clean_accuracy(self, subject: EvaluatedModel) -> Estimate:
        """A subject's accuracy on clean images, from the done cell that asks about most images.

        Certificates are only asked where there is no attack, and never those of a vote under noise; cells
        about views never, since signs that are not classified correctly from everywhere are void there.
        """
        done = [cell for cell in self.cells if cell.subject == subject and cell.is_done]
        attacks = [cell for cell in done if not (cell.is_certificate or cell.is_sticker)]
        proofs = [cell for cell in done if cell.is_certificate and cell.record.concerns == "model"]
        estimates = [cell.clean_accuracy for cell in attacks or proofs]
        return max(estimates, key=lambda estimate: estimate.n, default=compute_clopper_pearson(0, 0))

    def compare_models(self, threat: Threat) -> list[ModelComparison]:
        """The subject that holds most often against each of the others, on the same images."""
        rows = [one for one in self.worst_cases if one.threat == threat and one.robust_accuracy.is_known]
        if len(rows) < 2:
            return []
        best = max(rows, key=lambda one: one.robust_accuracy.value)
        return [_compare_worst_cases(best, other) for other in rows if other is not best]

    def get_subject(self, model: str, defense: str | None) -> EvaluatedModel:
        """A model with its defense, under its label."""
        name = defense or "none"
        return EvaluatedModel(model=model, defense=name, label=self.labels.get_model_label(model, name))

    def get_class_names(self, model: str) -> Sequence[str]:
        """Names of a model's classes by index; the data's, unless the model brought its own."""
        own = next((about.get("class_names") for about in self.models if about.get("id") == model), None)
        return list(own or self.data.get("class_names") or ())

    def get_class_name(self, model: str, index: int | None) -> str:
        """A class in words; ``class 7`` where there are no names."""
        if index is None:
            return "no finite answer"
        names = self.get_class_names(model)
        name = names[index] if 0 <= index < len(names) else ""
        return name if name and name != str(index) else f"class {index}"


def _compare_worst_cases(first: WorstCase, second: WorstCase) -> ModelComparison:
    images = [image for image in first.verdicts if image in second.verdicts]
    comparison = compute_mcnemar(
        [first.verdicts[image].robust for image in images],
        [second.verdicts[image].robust for image in images],
    )
    return ModelComparison(
        first=first.subject, second=second.subject, threat=first.threat, comparison=comparison
    )
