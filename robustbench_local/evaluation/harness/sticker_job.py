"""The job of a sticker cell: craft the sticker, predict views of it and its controls, record each sign."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustbench_local.attacks.physical.eot import EOTAttack
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.device import move_batch
from robustbench_local.classifier.pass_counter import PassCounter
from robustbench_local.classifier.stochastic import passes_per_query
from robustbench_local.classifier.twin_view import TwinView
from robustbench_local.errors import InvariantError, UnreachableError
from robustbench_local.evaluation.harness.answer_agreement import compare_with_fresh_copy
from robustbench_local.evaluation.harness.attack_job import (
    HARNESS_PASSES,
    BaseAttackJob,
    build_attack_error,
    replace_remedy,
)
from robustbench_local.evaluation.harness.job import OutcomeBatch
from robustbench_local.evaluation.harness.outcome import add_gradient_counts, build_clean_outcome, hash_image
from robustbench_local.evaluation.harness.sticker_scene import (
    APPROACH_FRAMES,
    CraftedStickers,
    StickerScene,
    ViewPredictions,
)
from robustbench_local.evaluation.harness.sticker_twin import compare_sticker_views, open_twin_counter
from robustbench_local.evaluation.harness.verify import Predictions, predict
from robustbench_local.randomness import RandomStream
from robustbench_local.store.records import (
    MIN_CLEAN_SHARE,
    Condition,
    OutcomeRecord,
    ViewKind,
    ViewPredictionsRecord,
    ViewRecord,
)
from robustbench_local.threats.lp_ball import compute_norms
from robustbench_local.threats.physical.printability import compute_non_printability, compute_total_variation
from robustbench_local.threats.physical.relighting import remove_lighting
from robustbench_local.threats.physical.scene import find_sticker_pixels
from robustbench_local.threats.physical.views import Views
from robustbench_local.threats.threat_model import ThreatModel

TEST_VIEWS = 1000
"""Number of views in which a sign is evaluated."""
SIGN_SUCCESS_SHARE = 0.5
"""A sign is broken if more than this share of its views end as the attacker wants."""
WHOLE_SIGN_STEP_DIVISOR = 3
"""Divisor of the number of steps for a sticker over the whole sign, a positive control that needs few."""
TWIN_IMAGE_PASSES = 6
"""Passes on the flat images that a comparison with a twin takes: four on the twin, two on the model."""
SHOWN_VIEWS, SHOWN_FRAMES = 8, 12
"""Numbers of stored photographs of a sign: its first test views, and frames evenly over the drive-by."""

PredictionsByCondition = dict[tuple[Condition, ViewKind], ViewPredictions]
ReportArrays = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, kw_only=True)
class StickerJob(BaseAttackJob):
    """A job that crafts a sticker or patch and predicts many views of each sign."""

    attack: EOTAttack
    """The attack and its hyper-parameters."""
    test_views: int = TEST_VIEWS
    """Number of views of each sign."""
    view: TwinView | None = None
    """The classifier with the gradients of its float twin, which the attack searches on; None without one."""

    @property
    def attacked_model(self) -> Classifier:
        """The model that the attack queries."""
        return self.view or self.classifier

    @property
    def queried_model(self) -> Classifier:
        """The model that the attack queries, with its twin."""
        return self.attacked_model

    @property
    def images_per_position(self) -> int:
        """Number of views per step."""
        return max(1, self.attack.views)

    @property
    def max_passes(self) -> tuple[int, int]:
        """Maximum number of forward and backward passes over all signs: sticker, controls, and all views."""
        crafted = [(self.attack, self.threat)]
        crafted += [(attack, threat) for _, attack, threat in list_controls(self.attack, self.threat)]
        costs = [attack.estimate_cost(threat) for attack, threat in crafted]
        forward, backward = (sum(passes) for passes in zip(*costs, strict=True))
        # the clean sign and stickers of random colors are photographed in addition to the crafted ones
        views = (len(crafted) + 2) * self.test_views + 2 * APPROACH_FRAMES
        query_passes, verdict_passes = passes_per_query(self.classifier)
        count = self.image_count
        if self.view is not None:
            forward, views = 2 * forward, views + 2 * self.test_views + TWIN_IMAGE_PASSES
        return (
            count * (forward * query_passes + (views + HARNESS_PASSES) * verdict_passes),
            count * backward * query_passes,
        )

    def compute_chunk_size(self, batch_size: int) -> int:
        """Return the number of signs with which one step of the attack fills a batch."""
        return max(1, batch_size // self.images_per_position)

    def run(self, positions: list[int]) -> OutcomeBatch:
        """Predict the clean signs; attack the correctly classified ones, and predict every condition."""
        started = time.perf_counter()
        data, classifier = self.select_images(positions), self.classifier
        images, labels = (move_batch(part, classifier.device) for part in (data.images, data.labels))
        stream = RandomStream(self.seed, data.ids, repr(self.attack))
        with classifier.open_fresh_copy() as judge:
            clean = predict(judge, images, labels, stream=stream)
        passes = passes_per_query(classifier)[1]
        records = [
            build_clean_outcome(self.key, position, data, row, clean, passes=passes)
            for row, position in enumerate(positions)
        ]
        batch = OutcomeBatch(outcomes=tuple(records), candidates=data.images.clone())
        rows = clean.correct.nonzero().flatten().tolist()
        if rows:
            with (
                classifier.count_passes(len(rows)) as counter,
                open_twin_counter(self.view, len(rows)) as twin,
            ):
                counters = [counter]
                try:
                    with classifier.open_fresh_copy() as judge, judge.count_passes(len(rows)) as looking:
                        counters.append(looking)
                        batch = self._attack_signs(batch, rows, judge, counters, twin)
                except Exception as failure:
                    if len(positions) > 1 or isinstance(failure, InvariantError | UnreachableError):
                        raise
                    spent, seconds = _count_passes(counters, 0), time.perf_counter() - started
                    raise build_attack_error(records[0], replace_remedy(failure), spent, seconds) from failure
        seconds = (time.perf_counter() - started) / len(positions)
        return replace(batch, outcomes=tuple(replace(row, seconds=seconds) for row in batch.outcomes))

    def _attack_signs(
        self,
        batch: OutcomeBatch,
        rows: list[int],
        judge: Classifier,
        counters: list[PassCounter],
        twin_counter: PassCounter | None,
    ) -> OutcomeBatch:
        """Attack these rows of a batch; return the batch with their outcomes.

        Args:
            batch: The predictions of the clean signs.
            rows: The rows to attack.
            judge: A copy of the classifier, which predicts the results of the attack on the classifier.
            counters: The pass counters of both.
            twin_counter: That of the twin, whose gradients the attack follows; None without one.
        """
        clean_records = [batch.outcomes[row] for row in rows]
        chosen = self.select_images([record.position for record in clean_records])
        signs = StickerScene.from_data(
            self.attacked_model, chosen, self.attack.ranges, test_views=self.test_views, seed=self.seed
        )
        self.attacked_model.gradient_guard.check_every_gradient()
        crafted = signs.craft_stickers(self.attack, self.threat, self.seed)
        # those of the attack; its controls prove nothing
        gradients = (twin_counter or counters[0]).gradient_counts
        seen_by = replace(signs, classifier=judge)
        views_by_condition = self._predict_conditions(signs, seen_by, crafted)
        flat = signs.compose_flat(crafted)
        reading = predict(judge, flat, signs.labels, stream=signs.stream)
        outcomes, candidates = list(batch.outcomes), batch.candidates.clone()
        candidates[rows] = flat.cpu()
        judged = _StickerEvidence(
            scene=signs,
            stickers=crafted,
            predictions=views_by_condition,
            flat_images=flat,
            flat_predictions=reading,
        )
        for index, row in enumerate(rows):
            record = judged.build_outcome(clean_records[index], index, _count_passes(counters, index))
            outcomes[row] = add_gradient_counts(record, gradients[index])
        if self.view is not None and twin_counter is not None:
            answers = compare_sticker_views(self.view, signs, crafted, flat)
            for index, row in enumerate(rows):
                outcomes[row] = answers.add_to_outcome(outcomes[row], index, twin_counter, SIGN_SUCCESS_SHARE)
        report_arrays = _build_report_arrays(signs, crafted)
        return OutcomeBatch(
            outcomes=tuple(outcomes),
            candidates=candidates,
            view_predictions=tuple(_build_prediction_records(clean_records, views_by_condition)),
            views=tuple(_build_view_records(clean_records, signs)),
            agreement=compare_with_fresh_copy(self.classifier, judge, flat, signs.labels),
            report_images={
                record.position: {name: values[index] for name, values in report_arrays.items()}
                for index, record in enumerate(clean_records)
            },
        )

    def _predict_conditions(
        self, signs: StickerScene, seen_by: StickerScene, crafted: CraftedStickers
    ) -> PredictionsByCondition:
        """Predict every condition: the sticker, and the controls that its success is compared with."""
        views_by_condition: PredictionsByCondition = {}
        for kind, views in _list_view_kinds(signs):
            views_by_condition["clean", kind] = seen_by.predict_views(None, views)
            views_by_condition["sticker", kind] = seen_by.predict_views(crafted, views)
        views_by_condition["random-colours", "view"] = seen_by.predict_random_stickers(crafted)
        for condition, attack, threat in list_controls(self.attack, self.threat):
            made = signs.craft_stickers(attack, threat, self.seed)
            views_by_condition[condition, "view"] = seen_by.predict_views(made, signs.test_views)
        return views_by_condition


def list_controls(attack: EOTAttack, threat: ThreatModel) -> list[tuple[Condition, EOTAttack, ThreatModel]]:
    """List the controls that are made beside an attack, for comparison.

    Args:
        attack: The attack.
        threat: The threat model.

    Returns:
        Condition, attack and threat model of each: a sticker of size zero, the attack without views, and a
        sticker over the whole sign, for which fewer steps are enough.
    """
    controls: list[tuple[Condition, EOTAttack, ThreatModel]] = []
    if threat.norm == "sticker" and threat.eps:
        controls.append(("no-size", attack, replace(threat, eps=0.0)))
    if attack.views:
        controls.append(("without-views", replace(attack, views=0), threat))
    if threat.norm == "sticker" and threat.transformation != "poster":
        quick = replace(attack, steps=-(-attack.steps // WHOLE_SIGN_STEP_DIVISOR))
        controls.append(("whole-sign", quick, replace(threat, eps=1.0, transformation="poster")))
    return controls


@dataclass(frozen=True, kw_only=True)
class _StickerEvidence:
    """All the evidence for the verdict on a sign."""

    scene: StickerScene
    stickers: CraftedStickers
    predictions: PredictionsByCondition
    flat_images: Tensor
    flat_predictions: Predictions

    def build_outcome(self, record: OutcomeRecord, index: int, passes: tuple[int, int]) -> OutcomeRecord:
        """Build the record of an attacked sign from that of the clean sign."""
        label, threat = self.scene.labels[index : index + 1].cpu(), self.stickers.threat
        right = self.predictions["clean", "view"].find_correct_views(self.scene.labels)[index]
        predicted = self.predictions["sticker", "view"].prediction[index][right]
        hits = threat.is_success(predicted, label.expand(len(predicted))) & (predicted >= 0)
        moved = (predicted != label) & ~hits
        void = float(right.double().mean()) < MIN_CLEAN_SHARE
        change = (self.flat_images[index : index + 1] - self.scene.images[index : index + 1]).cpu().double()
        broken = not void and int(hits.sum()) > SIGN_SUCCESS_SHARE * len(predicted)
        prediction = int(self.flat_predictions.prediction[index])
        judged = replace(
            record,
            adversarial_prediction=prediction if prediction >= 0 else None,
            clean_correct=not void,
            broken=broken,
            moved_elsewhere=not (void or broken) and int(moved.sum()) > SIGN_SUCCESS_SHARE * len(predicted),
            margin=float(self.flat_predictions.margin[index]),
            fragile=bool(self.flat_predictions.fragile[index]),
            linf=float(compute_norms(change, "Linf")),
            l2=float(compute_norms(change, "L2")),
            l1=float(change.abs().sum()),
            l0=float(compute_norms(change, "L0")),
            broken_8bit=True if broken else None,  # every photograph is an 8-bit image
            forward_passes=record.forward_passes + passes[0],
            backward_passes=record.backward_passes + passes[1],
            adversarial_hash=hash_image(self.flat_images[index]),
        )
        if void:
            message = f"{100 * float(right.double().mean()):.1f}% of its clean views are classified correctly"
            return replace(judged, status="void", error=f"{message}; {100 * MIN_CLEAN_SHARE:.0f}% are needed")
        judged = replace(judged, error=self._format_broken_rules(index))
        return (
            judged if self.stickers.rejection_reasons[index] is None else replace(judged, status="rejected")
        )

    def _format_broken_rules(self, index: int) -> str | None:
        """Name the rule that the sticker breaks, and those that its controls break."""
        own = self.stickers.rejection_reasons[index]
        broken_rules = {
            condition: predictions.rejection_reasons[index]
            for (condition, _), predictions in self.predictions.items()
            if predictions.rejection_reasons[index] not in {None, own}
        }
        message = [f"control {condition}: {reason}" for condition, reason in broken_rules.items()]
        return "; ".join([own, *message] if own else message) or None


def _build_prediction_records(
    records: list[OutcomeRecord], views_by_condition: Mapping[tuple[Condition, ViewKind], ViewPredictions]
) -> list[ViewPredictionsRecord]:
    return [
        _build_prediction_record(record, index, condition, kind, predictions)
        for index, record in enumerate(records)
        for (condition, kind), predictions in views_by_condition.items()
    ]


def _build_prediction_record(
    record: OutcomeRecord, index: int, condition: Condition, kind: ViewKind, views: ViewPredictions
) -> ViewPredictionsRecord:
    """Build the prediction record of one sign; None if a control breaks a rule.

    An attack whose sticker breaks a rule has failed, and the predictions of the clean sign say so. For a
    control, the clean predictions would claim that it was valid.
    """
    is_invalid = condition != "sticker" and views.rejection_reasons[index] is not None
    read = [] if is_invalid else views.prediction[index].tolist()
    sure = [] if is_invalid else views.confidence[index].tolist()
    return ViewPredictionsRecord(
        cell=record.cell,
        position=record.position,
        condition=condition,
        kind=kind,
        predictions=tuple(None if value < 0 else value for value in read),
        confidences=tuple(None if math.isnan(value) else round(value, 4) for value in sure),
    )


def _count_passes(counters: list[PassCounter], index: int) -> tuple[int, int]:
    return (
        sum(int(counter.forward_passes[index]) for counter in counters),
        sum(int(counter.backward_passes[index]) for counter in counters),
    )


def _list_view_kinds(signs: StickerScene) -> tuple[tuple[ViewKind, Views], ...]:
    return ("view", signs.test_views), ("approach", signs.approach_views)


def _build_view_records(records: list[OutcomeRecord], signs: StickerScene) -> list[ViewRecord]:
    names = ("distance", "yaw", "pitch", "roll")
    return [
        ViewRecord(
            cell=record.cell,
            position=record.position,
            kind=kind,
            **{name: _round_values(getattr(views, name)[index]) for name in names},
        )
        for index, record in enumerate(records)
        for kind, views in _list_view_kinds(signs)
    ]


def _round_values(values: Tensor) -> tuple[float, ...]:
    return tuple(round(value, 2) for value in values.tolist())


def _build_report_arrays(signs: StickerScene, crafted: CraftedStickers) -> ReportArrays:
    """Return the arrays that the report shows of each sign, (N, ...) each."""
    count = len(signs.images)
    views = np.arange(min(SHOWN_VIEWS, signs.test_views.count))
    frames = np.linspace(0, APPROACH_FRAMES - 1, SHOWN_FRAMES).round().astype(np.int64)
    printed = crafted.candidates
    worn = torch.ones_like(printed[:, :1], dtype=torch.bool)
    if crafted.threat.norm == "sticker":
        worn = find_sticker_pixels(printed, signs.images, signs.surfaces, crafted.threat)
        printed = remove_lighting(printed, signs.images, signs.surfaces)
    return {
        "photographs": signs.photograph_views(crafted, signs.test_views.slice_views(0, len(views))),
        "photograph_numbers": np.tile(views, (count, 1)),
        "frames": np.concatenate(
            [
                signs.photograph_views(crafted, signs.approach_views.slice_views(frame, frame + 1))
                for frame in frames.tolist()
            ],
            axis=1,
        ),
        "frame_numbers": np.tile(frames, (count, 1)),
        "total_variation": compute_total_variation(printed, worn).cpu().numpy(),
        "non_printability": compute_non_printability(printed, worn).cpu().numpy(),
    }
