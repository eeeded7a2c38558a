"""The work of a sticker's cell: craft it, look at it and its controls from everywhere, write it all down."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustbench_local.attacks.physical.eot import ExpectationAttack
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.pass_counter import Meter
from robustbench_local.classifier.stochastic import draws_of
from robustbench_local.errors import InvariantError, UnreachableError
from robustbench_local.evaluation.harness.attack_job import AttackWork, Batch, advised, stranded
from robustbench_local.evaluation.harness.outcome import fingerprint, untouched, with_gradients
from robustbench_local.evaluation.harness.reproducibility import read_twice
from robustbench_local.evaluation.harness.sticker_scene import FRAMES, Crafted, Seen, Signs
from robustbench_local.evaluation.harness.verify import Reading, read
from robustbench_local.randomness import Stream
from robustbench_local.store.records import (
    LEAST_CLEAN,
    Condition,
    OutcomeRecord,
    SightingRecord,
    ViewKind,
    ViewRecord,
)
from robustbench_local.threats.lp_ball import norm_of
from robustbench_local.threats.physical.printability import non_printability, total_variation
from robustbench_local.threats.physical.relighting import unlit
from robustbench_local.threats.physical.scene import worn_mask
from robustbench_local.threats.physical.views import Views
from robustbench_local.threats.threat_model import ThreatModel

TEST_VIEWS = 1000
"""Views that a sign is judged over."""
MOST_TURNED = 0.5
"""A sign is broken if more than this share of its views end as the attacker wants."""
QUICKER = 3
"""Painting a whole sign gets this part of the steps: it shows that the attack works, and that takes few."""
SHOWN_VIEWS, SHOWN_FRAMES = 8, 12
"""Photographs that are kept of a sign: its first test views, and frames evenly over the drive-by."""

Looks = dict[tuple[Condition, ViewKind], Seen]
Arrays = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, kw_only=True)
class Viewing(AttackWork):
    """A sticker or a patch, judged by what the classifier reads in many views of each sign."""

    attack: ExpectationAttack
    """The attack and its hyper-parameters."""
    test_views: int = TEST_VIEWS
    """Views of each sign."""

    @property
    def images_each(self) -> int:
        """The views of a step."""
        return max(1, self.attack.views)

    def at_once(self, batch_size: int) -> int:
        """As many signs as one step of the attack fills a batch with."""
        return max(1, batch_size // self.images_each)

    def run(self, positions: list[int]) -> Batch:
        """Read the clean signs; attack those read rightly and look at them under every condition."""
        started = time.perf_counter()
        data, classifier = self.data.select(positions), self.classifier
        images, labels = data.images.to(classifier.device), data.labels.to(classifier.device)
        stream = Stream(self.seed, data.ids, repr(self.attack))
        with classifier.fresh() as judge:
            clean = read(judge, images, labels, stream=stream)
        passes = draws_of(classifier)[1]
        records = [
            untouched(self.key, position, data, row, clean, passes=passes)
            for row, position in enumerate(positions)
        ]
        batch = Batch(outcomes=tuple(records), candidates=data.images.clone())
        rows = clean.correct.nonzero().flatten().tolist()
        if rows:
            with classifier.metered(len(rows)) as meter:
                meters = [meter]
                try:
                    with classifier.fresh() as judge, judge.metered(len(rows)) as looking:
                        meters.append(looking)
                        batch = self._attacked(batch, rows, judge, meters)
                except Exception as failure:
                    if len(positions) > 1 or isinstance(failure, InvariantError | UnreachableError):
                        raise
                    spent, seconds = _spent(meters, 0), time.perf_counter() - started
                    raise stranded(records[0], advised(failure), spent, seconds) from failure
        seconds = (time.perf_counter() - started) / len(positions)
        return replace(batch, outcomes=tuple(replace(row, seconds=seconds) for row in batch.outcomes))

    def _attacked(self, batch: Batch, rows: list[int], judge: Classifier, meters: list[Meter]) -> Batch:
        """The batch with what came of these rows of it.

        Args:
            batch: The readings of the clean signs.
            rows: Which of them are attacked.
            judge: A copy of the classifier, which looks at what the attack on the classifier made.
            meters: What counts the passes of both.
        """
        untouched_records = [batch.outcomes[row] for row in rows]
        chosen = self.data.select([record.position for record in untouched_records])
        signs = Signs.before(
            self.classifier, chosen, self.attack.ranges, test_views=self.test_views, seed=self.seed
        )
        self.classifier.gradient_guard.look_at_each()
        crafted = signs.craft(self.attack, self.threat, self.seed)
        gradients = meters[0].gradients  # those of the attack; its controls prove nothing
        seen_by = replace(signs, classifier=judge)
        looks = self._looks(signs, seen_by, crafted)
        flat = signs.flat(crafted)
        reading = read(judge, flat, signs.labels, stream=signs.stream)
        outcomes, candidates = list(batch.outcomes), batch.candidates.clone()
        candidates[rows] = flat.cpu()
        judged = _Judge(signs=signs, crafted=crafted, looks=looks, flat=flat, reading=reading)
        for place, row in enumerate(rows):
            record = judged.outcome(untouched_records[place], place, _spent(meters, place))
            outcomes[row] = with_gradients(record, gradients[place])
        kept = _pictures(signs, crafted)
        return Batch(
            outcomes=tuple(outcomes),
            candidates=candidates,
            sightings=tuple(_sightings(untouched_records, looks)),
            views=tuple(_views(untouched_records, signs)),
            rereadings=read_twice(self.classifier, judge, flat, signs.labels),
            pictures={
                record.position: {name: values[place] for name, values in kept.items()}
                for place, record in enumerate(untouched_records)
            },
        )

    def _looks(self, signs: Signs, seen_by: Signs, crafted: Crafted) -> Looks:
        """What is read under every condition: the sticker, and what its success is read against."""
        looks: Looks = {}
        for kind, views in _kinds(signs):
            looks["clean", kind] = seen_by.look(None, views)
            looks["sticker", kind] = seen_by.look(crafted, views)
        looks["random-colours", "view"] = seen_by.look_at_random(crafted)
        for condition, attack, threat in controls(self.attack, self.threat):
            made = signs.craft(attack, threat, self.seed)
            looks[condition, "view"] = seen_by.look(made, signs.tests)
        return looks


def controls(
    attack: ExpectationAttack, threat: ThreatModel
) -> list[tuple[Condition, ExpectationAttack, ThreatModel]]:
    """What else has to be made beside an attack, for comparison.

    Args:
        attack: The attack.
        threat: What it may do.

    Returns:
        Condition, attack and threat of each: a sticker of no size, the attack without views, and a sticker
        over the whole sign, for which fewer steps will do.
    """
    found: list[tuple[Condition, ExpectationAttack, ThreatModel]] = []
    if threat.norm == "sticker" and threat.eps:
        found.append(("no-size", attack, replace(threat, eps=0.0)))
    if attack.views:
        found.append(("without-views", replace(attack, views=0), threat))
    if threat.norm == "sticker" and threat.transformation != "poster":
        quick = replace(attack, steps=-(-attack.steps // QUICKER))
        found.append(("whole-sign", quick, replace(threat, eps=1.0, transformation="poster")))
    return found


@dataclass(frozen=True, kw_only=True)
class _Judge:
    """Everything that a verdict on a sign rests on."""

    signs: Signs
    crafted: Crafted
    looks: Looks
    flat: Tensor
    reading: Reading

    def outcome(self, record: OutcomeRecord, place: int, passes: tuple[int, int]) -> OutcomeRecord:
        """The record of an attacked sign, given that of the untouched one."""
        label, threat = self.signs.labels[place : place + 1].cpu(), self.crafted.threat
        right = self.looks["clean", "view"].right(self.signs.labels)[place]
        seen = self.looks["sticker", "view"].prediction[place][right]
        hits = threat.success(seen, label.expand(len(seen))) & (seen >= 0)
        moved = (seen != label) & ~hits
        void = float(right.double().mean()) < LEAST_CLEAN
        change = (self.flat[place : place + 1] - self.signs.images[place : place + 1]).double().cpu()
        broken = not void and int(hits.sum()) > MOST_TURNED * len(seen)
        prediction = int(self.reading.prediction[place])
        judged = replace(
            record,
            adversarial_prediction=prediction if prediction >= 0 else None,
            clean_correct=not void,
            broken=broken,
            moved_elsewhere=not (void or broken) and int(moved.sum()) > MOST_TURNED * len(seen),
            margin=float(self.reading.margin[place]),
            fragile=bool(self.reading.fragile[place]),
            linf=float(norm_of(change, "Linf")),
            l2=float(norm_of(change, "L2")),
            l1=float(change.abs().sum()),
            broken_8bit=True if broken else None,  # every photograph is an 8-bit image
            forward_passes=record.forward_passes + passes[0],
            backward_passes=record.backward_passes + passes[1],
            adversarial_hash=fingerprint(self.flat[place]),
        )
        if void:
            told = f"{100 * float(right.double().mean()):.1f} % of its clean views are read rightly"
            return replace(judged, status="void", error=f"{told}; {100 * LEAST_CLEAN:.0f} % are needed")
        judged = replace(judged, error=self._broken_rules(place))
        return judged if self.crafted.reasons[place] is None else replace(judged, status="rejected")

    def _broken_rules(self, place: int) -> str | None:
        """Which rule the sticker breaks, and which its controls break beside."""
        own = self.crafted.reasons[place]
        found = {
            condition: seen.reasons[place]
            for (condition, _), seen in self.looks.items()
            if seen.reasons[place] not in {None, own}
        }
        told = [f"control {condition}: {reason}" for condition, reason in found.items()]
        return "; ".join([own, *told] if own else told) or None


def _sightings(
    records: list[OutcomeRecord], looks: Mapping[tuple[Condition, ViewKind], Seen]
) -> list[SightingRecord]:
    return [
        _sighting(record, place, condition, kind, seen)
        for place, record in enumerate(records)
        for (condition, kind), seen in looks.items()
    ]


def _sighting(
    record: OutcomeRecord, place: int, condition: Condition, kind: ViewKind, seen: Seen
) -> SightingRecord:
    """What was read of one sign; nothing if a control breaks a rule.

    An attack whose sticker breaks a rule has failed, as the readings of the clean sign say. Of a control they
    would say that it was kept.
    """
    barred = condition != "sticker" and seen.reasons[place] is not None
    read = [] if barred else seen.prediction[place].tolist()
    sure = [] if barred else seen.confidence[place].tolist()
    return SightingRecord(
        cell=record.cell,
        position=record.position,
        condition=condition,
        kind=kind,
        predictions=tuple(None if one < 0 else one for one in read),
        confidences=tuple(None if math.isnan(one) else round(one, 4) for one in sure),
    )


def _spent(meters: list[Meter], place: int) -> tuple[int, int]:
    return (
        sum(int(meter.forward[place]) for meter in meters),
        sum(int(meter.backward[place]) for meter in meters),
    )


def _kinds(signs: Signs) -> tuple[tuple[ViewKind, Views], ...]:
    return ("view", signs.tests), ("approach", signs.drive)


def _views(records: list[OutcomeRecord], signs: Signs) -> list[ViewRecord]:
    names = ("distance", "yaw", "pitch", "roll")
    return [
        ViewRecord(
            cell=record.cell,
            position=record.position,
            kind=kind,
            **{name: _rounded(getattr(views, name)[place]) for name in names},
        )
        for place, record in enumerate(records)
        for kind, views in _kinds(signs)
    ]


def _rounded(values: Tensor) -> tuple[float, ...]:
    return tuple(round(value, 2) for value in values.tolist())


def _pictures(signs: Signs, crafted: Crafted) -> Arrays:
    """What the report shows of each sign, (N, ...) each."""
    count = len(signs.images)
    views = np.arange(min(SHOWN_VIEWS, signs.tests.count))
    frames = np.linspace(0, FRAMES - 1, SHOWN_FRAMES).round().astype(np.int64)
    printed = crafted.found
    worn = torch.ones_like(printed[:, :1], dtype=torch.bool)
    if crafted.threat.norm == "sticker":
        worn = worn_mask(printed, signs.images, signs.surfaces, crafted.threat)
        printed = unlit(printed, signs.images, signs.surfaces)
    return {
        "photographs": signs.film(crafted, signs.tests.part(0, len(views))),
        "photograph_numbers": np.tile(views, (count, 1)),
        "frames": np.concatenate(
            [signs.film(crafted, signs.drive.part(frame, frame + 1)) for frame in frames.tolist()], axis=1
        ),
        "frame_numbers": np.tile(frames, (count, 1)),
        "total_variation": total_variation(printed, worn).cpu().numpy(),
        "non_printability": non_printability(printed, worn).cpu().numpy(),
    }
