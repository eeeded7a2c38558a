"""Evidence of a run: cells, worst cases and comparisons, shared by all forms of the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations, starmap
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from robustbench_local.cluster_statistics import Groups, compare_images, estimate_image_share
from robustbench_local.reports.analysis.sticker_views import (
    SignResult,
    compute_attack_success,
    estimate_success_over_signs,
)
from robustbench_local.reports.formatting.text import format_budget, format_knowledge, get_attack_family
from robustbench_local.statistics import (
    Comparison,
    Estimate,
    adjust_by_holm,
    compute_clopper_pearson,
)
from robustbench_local.store import AdaptationRecord, CellRecord, EventRecord, OutcomeCounts
from robustbench_local.store.diagnostic_records import DiagnosticsRecord
from robustbench_local.store.run_labels import RunLabels

if TYPE_CHECKING:
    from robustbench_local.reports.analysis.worst_case import WorstCase

ReportedStatus = Literal["done", "void", "partial", "error", "timeout", "skipped", "not run"]


class ImagePrediction(NamedTuple):
    """The true class of an image and the class that is predicted in the end."""

    final: int | None
    """Predicted class of the verified candidate; of the clean image where there is none. None if the output
    is not finite."""
    label: int
    """True class."""


class ImageVerdict(NamedTuple):
    """The verdict of one attack on one image."""

    clean_correct: bool
    """Correctly classified without attack."""
    broken: bool
    """Correctly classified clean and misclassified under attack."""
    robust: bool
    """Correctly classified clean, without a successful attack and without an error."""

    @property
    def is_known(self) -> bool:
        """Whether the attack completed; an image on which it raised is neither broken nor robust."""
        return self.broken or self.robust or not self.clean_correct


@dataclass(frozen=True, kw_only=True)
class Threat:
    """A threat model and its images; attacks that share it are evaluated together."""

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
        """The name without its size: ``linf``, ``spatial`` or a corruption such as ``fog``."""
        return self.name.rpartition("-")[0]


@dataclass(frozen=True, kw_only=True)
class EvaluatedModel:
    """A model together with its defense."""

    model: str
    """Model id from the grid file."""
    defense: str
    """Defense name, or ``none``."""
    label: str = field(default="", compare=False)
    """Label in tables; empty: its ids."""

    def __str__(self) -> str:
        return self.label or RunLabels().get_model_label(self.model, self.defense)


class QueryStats(NamedTuple):
    """Forward passes per correctly classified image; only these are attacked."""

    median: float | None
    """Median over all of them; None if there are none."""
    largest: int | None
    """Maximum over all of them."""
    median_broken: float | None
    """Median over images with a successful attack; None without any."""
    largest_broken: int | None
    """Maximum over images with a successful attack."""


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """A cell with its counts. Only a cell whose ``reported_status`` is ``done`` has shares."""

    record: CellRecord
    """The cell as stored."""
    tally: OutcomeCounts
    """Counts over the stored outcomes, whatever the status."""
    verdicts: Mapping[str, ImageVerdict] = field(repr=False)
    """Image id -> verdict; empty unless done."""
    reported_status: ReportedStatus
    """Status of the cell in the report."""
    query_stats: QueryStats
    """Forward passes over the stored outcomes."""
    problem: str | None = None
    """The reason why it is not done, in one line."""
    labels: RunLabels = field(default_factory=RunLabels, repr=False)
    """Labels of attacks and models in tables."""
    radii: Mapping[str, float] = field(default_factory=dict, repr=False)
    """Image id -> distance of the nearest adversarial example, infinite without any, 0 if misclassified
    clean; empty unless done and the attack measures distances."""
    success_norms: Mapping[str, Mapping[str, float]] = field(default_factory=dict, repr=False)
    """Image id -> norm -> size of the successful perturbation, whatever the status."""
    success_8bit: Mapping[str, bool | None] = field(default_factory=dict, repr=False)
    """Image id -> whether the adversarial example also succeeds as an 8-bit image; None if its ball has no
    such image. Only images with a successful attack, whatever the status."""
    certified_radii: Mapping[str, float] = field(default_factory=dict, repr=False)
    """Image id -> certified radius, whatever the status. Images without a certificate are missing."""
    predictions: Mapping[str, ImagePrediction] = field(default_factory=dict, repr=False)
    """Image id -> final prediction and label; empty unless done."""
    successful_stages: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Image id -> the stage of an ensemble that succeeded; only images whose stage is known."""
    adaptation: AdaptationRecord | None = field(default=None, repr=False)
    """How the attack was adapted to the model; None if it does not adapt."""
    gradient_images: frozenset[str] = field(default=frozenset(), repr=False)
    """Ids of the images whose gradients the attack computed; empty unless done."""
    useless_gradient_images: frozenset[str] = field(default=frozenset(), repr=False)
    """Those of them on which at least half of the gradients were useless."""
    draw_counts: Mapping[str, tuple[int, int]] = field(default_factory=dict, repr=False)
    """Image id -> (successful draws, draws) of the answer to its adversarial example; only images correctly
    classified clean, with draws; empty unless done."""
    fixed_draw_successes: Mapping[str, bool] = field(default_factory=dict, repr=False)
    """Image id -> whether the attack succeeds with the draw fixed; only images for which it was tried."""
    signs: tuple[SignResult, ...] = field(default=(), repr=False)
    """Results of each sign, if the cell is evaluated over views."""
    groups: Groups = field(default_factory=dict, repr=False)
    """Group of each image of the data; empty if the images are independent."""

    @property
    def subject(self) -> EvaluatedModel:
        """The model and defense under test."""
        model, defense = self.record.model, self.record.defense
        label = self.labels.get_model_label(model, defense)
        return EvaluatedModel(model=model, defense=defense, label=label)

    @property
    def label(self) -> str:
        """Label of the attack or certificate in tables, unique within the run."""
        return self.labels.get_attack_label(self.record.attack)

    @property
    def family_label(self) -> str:
        """The label without the budget; attacks that differ only in their budget share it."""
        attack = self.record.attack
        return self.labels.families.get(attack) or get_attack_family(attack)

    @property
    def surrogate_label(self) -> str | None:
        """Label of the surrogate model that the candidates were crafted on, if any."""
        surrogate = self.record.surrogate
        return surrogate and self.labels.get_model_label(surrogate, "none")

    @property
    def threat(self) -> Threat:
        """The threat model."""
        cell = self.record
        return Threat(norm=cell.norm, eps=cell.eps, name=cell.threat, sources=cell.sources)

    @property
    def targeted(self) -> bool:
        """Whether only certain classes count as success."""
        return self.record.goal == "targeted"

    @property
    def transferred(self) -> bool:
        """Whether the candidates were crafted on another model; never mixed with attacks on this model."""
        return self.record.knowledge == "transfer"

    @property
    def is_naive(self) -> bool:
        """Whether the candidates were crafted on the model without its defense."""
        return self.record.knowledge == "naive"

    @property
    def has_external_candidates(self) -> bool:
        """Whether the candidates were crafted on anything other than the model under test."""
        return self.transferred or self.is_naive

    @property
    def is_self_transfer(self) -> bool:
        """Whether it is a transfer from a model to itself, which the grid leaves empty."""
        return self.transferred and self.record.surrogate == self.record.model

    @property
    def is_corruption(self) -> bool:
        """Whether the images are randomly corrupted instead of attacked."""
        return self.record.norm == "corruption"

    @property
    def is_certificate(self) -> bool:
        """Whether the cell is a certificate instead of an attack."""
        return self.record.measure == "certificate"

    @property
    def is_sticker(self) -> bool:
        """Whether each image is a sign that is evaluated over views."""
        return self.record.measure == "views"

    @property
    def is_in_worst_case(self) -> bool:
        """Whether it is an untargeted attack on this model, as worst cases require."""
        return not (
            self.targeted
            or self.has_external_candidates
            or self.is_corruption
            or self.is_certificate
            or self.is_sticker
        )

    @property
    def attacker_knowledge(self) -> str:
        """The attacker's knowledge of the model."""
        return format_knowledge(self.record.knowledge, self.surrogate_label)

    @property
    def is_done(self) -> bool:
        """Whether every image has a verdict that counts."""
        return self.reported_status == "done"

    def select_class(self, label: int) -> CellResult:
        """Return the cell's verdicts and distances on the images of one class alone; counts stay."""
        images = {image for image, prediction in self.predictions.items() if prediction.label == label}
        return replace(
            self,
            verdicts={image: verdict for image, verdict in self.verdicts.items() if image in images},
            radii={image: radius for image, radius in self.radii.items() if image in images},
        )

    @cached_property
    def final_predictions(self) -> Mapping[str, ImagePrediction]:
        """Image id -> final prediction and label of images correctly classified clean; empty unless done."""
        return {
            image: prediction
            for image, prediction in self.predictions.items()
            if image in self.verdicts and self.verdicts[image].clean_correct
        }

    @property
    def clean_accuracy(self) -> Estimate:
        """Share of all the cell's images that are classified correctly without attack."""
        return self._estimate_share(
            self.tally.clean_correct, self.tally.n, lambda _, verdict: verdict.clean_correct
        )

    @property
    def robust_accuracy(self) -> Estimate:
        """Share of all the cell's images that stay correctly classified under attack (V5)."""
        return self._estimate_share(
            self.tally.robust, self.tally.n, lambda _, verdict: verdict.robust, attacked=True
        )

    @property
    def attack_success(self) -> Estimate:
        """Share of the correctly classified images with a successful attack (V5)."""
        return self._estimate_share(
            self.tally.broken,
            self.tally.clean_correct,
            lambda _, verdict: verdict.broken if verdict.clean_correct else None,
            attacked=True,
        )

    @property
    def attack_success_8bit(self) -> Estimate:
        """Attack success after the candidates are rounded to 8 bits (V4)."""
        return self._estimate_share(
            self.tally.broken_8bit,
            self.tally.clean_correct,
            lambda image, verdict: bool(self.success_8bit.get(image)) if verdict.clean_correct else None,
            attacked=True,
        )

    @property
    def certified_accuracy(self) -> Estimate:
        """Share of all the cell's images that are certified at the radius of the ball."""
        return self._estimate_share(
            self.tally.certified,
            self.tally.n,
            lambda image, _: self.certified_radii.get(image, -1.0) >= self.record.eps,
            attacked=False,
        )

    @property
    def sticker_success(self) -> Estimate:
        """Share of the views that end as the attacker wants, where the clean sign is classified correctly."""
        counted = (sign for sign in self.signs if sign.is_counted and self.is_done)
        return compute_attack_success(counted, "sticker", self.record.targets)

    @property
    def sticker_success_over_signs(self) -> Estimate:
        """The same share, with an interval that covers further signs instead of further views."""
        counted = (sign for sign in self.signs if sign.is_counted and self.is_done)
        return estimate_success_over_signs(counted, "sticker", self.record.targets, self.groups)

    def _estimate_share(
        self,
        k: int,
        n: int,
        judge: Callable[[str, ImageVerdict], bool | None],
        *,
        attacked: bool | None = None,
    ) -> Estimate:
        """Estimate a share of a done cell; unknown if it applies to attacks or to certificates alone.

        Args:
            k: Images that count.
            n: All images.
            judge: Whether an image counts, or None if it is not one of the ``n``; for images in groups.
            attacked: Whether the share applies to attacks or to certificates; None: to both.
        """
        meant = attacked is None or attacked != self.is_certificate
        if not (self.is_done and meant):
            return compute_clopper_pearson(0, 0)
        if not self.groups:
            return compute_clopper_pearson(k, n)
        judged = ((image, judge(image, verdict)) for image, verdict in self.verdicts.items())
        return estimate_image_share({image: mark for image, mark in judged if mark is not None}, self.groups)


@dataclass(frozen=True, kw_only=True)
class ModelComparison:
    """Two subjects compared on the same images under the same threat model."""

    first: EvaluatedModel
    """The subject of higher robust accuracy, or the earlier one."""
    second: EvaluatedModel
    """The other."""
    threat: Threat
    """The threat model."""
    comparison: Comparison
    """McNemar's exact test on their worst cases."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All data that the forms of the report are built from."""

    cells: tuple[CellResult, ...]
    """In the order of the grid."""
    worst_cases: tuple[WorstCase, ...]
    """Worst cases under untargeted threat models, in the order of their first cell."""
    events: tuple[EventRecord, ...] = ()
    """Events of the run."""
    identity: Mapping[str, str] = field(default_factory=dict)
    """Identity of the run."""
    question: str | None = None
    """The user's question."""
    seed: int | None = None
    """The run's seed."""
    grid: Mapping[str, Any] = field(default_factory=dict)
    """The resolved grid."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Facts about the images."""
    models: Sequence[Mapping[str, Any]] = ()
    """Facts about the models."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Versions and machine, without environment variables."""
    gates: Sequence[Mapping[str, Any]] = ()
    """The grid's gates."""
    has_begun: bool = True
    """Whether the run recorded its cells or its gates before it stopped."""
    severity_costs: Mapping[str, Any] = field(default_factory=dict)
    """Costs of misclassifications by model (misclassification_severity.py); empty if the run has none."""
    has_unchecked_rows: bool = False
    """Whether some rows are older than their digests, so that earlier damage is not detected."""
    damaged_images: Mapping[str, str] = field(default_factory=dict)
    """Key of a cell -> why its adversarial images are not shown; empty if they were not checked."""
    card_texts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Card -> its shipped ``description`` and ``source``; empty if the run did not record them."""
    labels: RunLabels = field(default_factory=RunLabels)
    """Labels of attacks and models in tables."""
    diagnostics: DiagnosticsRecord = field(default_factory=DiagnosticsRecord)
    """Diagnostics that asked the models; without results in older runs."""
    derived: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Results of ``compute_once``; a changed copy starts without any."""

    @property
    def groups(self) -> Groups:
        """Group of each image; empty if the images are independent."""
        return self.cells[0].groups if self.cells else {}

    @property
    def subjects(self) -> tuple[EvaluatedModel, ...]:
        """Models with their defenses, in the order of the grid."""
        return tuple(dict.fromkeys(cell.subject for cell in self.cells))

    @property
    def attack_cells(self) -> tuple[CellResult, ...]:
        """The cells of attacks."""
        return tuple(cell for cell in self.cells if not cell.is_certificate)

    @property
    def certificate_cells(self) -> tuple[CellResult, ...]:
        """The cells of certificates."""
        return tuple(cell for cell in self.cells if cell.is_certificate)

    @property
    def threats(self) -> tuple[Threat, ...]:
        """Untargeted threat models, in the order of the grid."""
        return tuple(dict.fromkeys(worst.threat for worst in self.worst_cases))

    @property
    def headline_threat(self) -> Threat | None:
        """The untargeted threat model of the answer: of a norm if possible, and with most attacks."""
        attacks = dict.fromkeys(self.threats, 0)
        for worst in self.worst_cases:
            attacks[worst.threat] = max(
                attacks[worst.threat], len(worst.attacks) + len(worst.missing_attacks)
            )
        return max(attacks, key=lambda threat: (threat.norm != "spatial", attacks[threat]), default=None)

    def get_worst_case(self, subject: EvaluatedModel, threat: Threat) -> WorstCase | None:
        """Return a subject's worst case under a threat model, if the grid has one."""
        matches = (
            worst_case
            for worst_case in self.worst_cases
            if worst_case.subject == subject and worst_case.threat == threat
        )
        return next(matches, None)

    def compute_clean_accuracy(self, subject: EvaluatedModel) -> Estimate:
        """Compute a subject's accuracy on clean images, from the done cell with most images.

        Certificates count only without an attack, and never those of a vote under noise. Cells over views
        never count: there a sign that is often misclassified clean is void.
        """
        done = [cell for cell in self.cells if cell.subject == subject and cell.is_done]
        attacks = [cell for cell in done if not (cell.is_certificate or cell.is_sticker)]
        proofs = [cell for cell in done if cell.is_certificate and cell.record.concerns == "model"]
        estimates = [cell.clean_accuracy for cell in attacks or proofs]
        return max(estimates, key=lambda estimate: estimate.n, default=compute_clopper_pearson(0, 0))

    def compare_models(self, threat: Threat) -> list[ModelComparison]:
        """Compare the subject of highest robust accuracy with each other one, on the same images.

        The p-values are adjusted for all pairs under this threat model: only the data tell which subject is
        highest.
        """
        rows = [
            worst_case
            for worst_case in self.worst_cases
            if worst_case.threat == threat and worst_case.robust_accuracy.is_known
        ]
        if len(rows) < 2:
            return []
        best = max(rows, key=lambda worst_case: worst_case.robust_accuracy.value)
        ranked = [best, *(row for row in rows if row is not best)]
        # the pairs of the best come first
        return _compare_worst_cases(list(combinations(ranked, 2)))[: len(rows) - 1]

    def get_subject(self, model: str, defense: str | None) -> EvaluatedModel:
        """Return a model with its defense and label."""
        name = defense or "none"
        return EvaluatedModel(model=model, defense=name, label=self.labels.get_model_label(model, name))

    def get_class_names(self, model: str) -> Sequence[str]:
        """Return the class names of a model by index; those of the data unless the model has its own."""
        own = next((about.get("class_names") for about in self.models if about.get("id") == model), None)
        return list(own or self.data.get("class_names") or ())

    def get_class_name(self, model: str, index: int | None) -> str:
        """Return the name of a class; ``class 7`` without names."""
        if index is None:
            return "no finite answer"
        names = self.get_class_names(model)
        if index == len(names) and any(
            about.get("abstain") is not None for about in self.models if about.get("id") == model
        ):
            return "rejected"
        name = names[index] if 0 <= index < len(names) else ""
        return name if name and name != str(index) else f"class {index}"


def _compare_worst_cases(pairs: Sequence[tuple[WorstCase, WorstCase]]) -> list[ModelComparison]:
    """Compare pairs of worst cases under one threat model, adjusted for the number of pairs."""
    tests = adjust_by_holm(list(starmap(_test_pair, pairs)))
    return [
        ModelComparison(first=first.subject, second=second.subject, threat=first.threat, comparison=test)
        for (first, second), test in zip(pairs, tests, strict=True)
    ]


def _test_pair(first: WorstCase, second: WorstCase) -> Comparison:
    robust_on_first, robust_on_second = (
        {image: verdict.robust for image, verdict in worst.verdicts.items()} for worst in (first, second)
    )
    return compare_images(robust_on_first, robust_on_second, first.groups)
