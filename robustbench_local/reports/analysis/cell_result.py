"""One cell of a run with its verdicts and shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple

from robustbench_local.cluster_statistics import Groups, estimate_image_share
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.image_verdict import ImagePrediction, ImageVerdict, TwinVerdict
from robustbench_local.reports.analysis.sticker_views import (
    SignResult,
    compute_attack_success,
    estimate_success_over_signs,
)
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.reports.formatting.text import format_knowledge, get_attack_family
from robustbench_local.statistics import Estimate, compute_clopper_pearson
from robustbench_local.store import AdaptationRecord, CellRecord, OutcomeCounts
from robustbench_local.store.run_labels import RunLabels

ReportedStatus = Literal["done", "stopped", "void", "partial", "error", "timeout", "skipped", "not run"]


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
    """Image id -> verdict; empty unless done, or stopped because the rest cannot change an answer."""
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
    rejected_images: frozenset[str] = field(default=frozenset(), repr=False)
    """Ids of the images that the model rejects: clean, or under attack if correctly classified clean; empty
    unless done."""
    twin_verdicts: Mapping[str, TwinVerdict] = field(default_factory=dict, repr=False)
    """Image id -> what the model's float twin answers; empty without a twin, and unless done or stopped."""
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
    def twin_label(self) -> str | None:
        """Label of the float twin that attacks searched on, if any."""
        twin = self.record.twin
        return twin and self.labels.get_model_label(twin, "none")

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
    def searches_without_gradients(self) -> bool:
        """Whether it is a black-box attack, or an ensemble with one, which masked gradients do not stop."""
        method = str(self.record.parameters.get("method"))
        return self.record.knowledge in {"scores", "labels"} or method.endswith(("autoattack", "adaptive"))

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
