"""One cell of the grid: work on a classifier over a list of images, batch by batch.

A batch of an attack goes through four stations: read the clean images, attack those read correctly, verify
the candidates, write one outcome an image. What fails inside a batch is confined to the image that fails.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustbench_local.attacks.base import Attack
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.pass_counter import GradientCounts, Meter
from robustbench_local.classifier.stochastic import draws_of
from robustbench_local.data.dataset import Dataset
from robustbench_local.errors import InvariantError, ModelError, RobustbenchError, UnreachableError
from robustbench_local.evaluation.harness.outcome import (
    attack_failed,
    judged,
    spared_outcome,
    untouched,
    with_gradients,
)
from robustbench_local.evaluation.harness.reproducibility import SecondReadings, compare_sizes, read_twice
from robustbench_local.evaluation.harness.success_robustness import Attacked, finish_successes
from robustbench_local.evaluation.harness.verify import Verified, read, verify
from robustbench_local.randomness import Stream
from robustbench_local.store.records import OutcomeRecord, SightingRecord, ViewRecord
from robustbench_local.threats.threat_model import ThreatModel, is_target

BATCHES_IN_A_CHUNK = 4
"""Batches that are handed together to an attack that refills its batch."""
SHORT_ATTACK = 1000
"""Most passes an image of an attack whose images are handed over in chunks of several batches."""
GROUP_PIXELS = 3 * 32 * 32
"""Pixel values of the image that an attack's group size is meant for."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The outcomes of some images, and the verified candidates beside them."""

    outcomes: tuple[OutcomeRecord, ...]
    """One an image, in the order of their positions."""
    candidates: Tensor
    """(N, C, H, W), on the CPU; the original where there was no valid candidate."""
    sightings: tuple[SightingRecord, ...] = ()
    """What was read in every view of these images, where they are judged over views."""
    views: tuple[ViewRecord, ...] = ()
    """Those views."""
    pictures: Mapping[int, Mapping[str, npt.NDArray[np.generic]]] = field(default_factory=dict)
    """What is kept for the report besides the candidate, by position and name."""
    rereadings: SecondReadings = field(default_factory=SecondReadings)
    """Whether the attacked model and a fresh copy of it agreed."""


class AttackFailedError(Exception):
    """An attack raised on an image that it had for itself, which was read before.

    Args:
        outcome: The record of the image: its clean reading, the passes spent, and an error.
        reason: What was raised.
    """

    def __init__(self, outcome: OutcomeRecord, reason: Exception) -> None:
        super().__init__(outcome, reason)  # both, for another process makes the same error from them
        self.outcome, self.reason = outcome, reason


def joined(batches: Sequence[Batch]) -> Batch:
    """The outcomes of all these images as one batch, in the order of their positions.

    Args:
        batches: At least one; no image may be in two of them.
    """
    outcomes = [row for batch in batches for row in batch.outcomes]
    order = sorted(range(len(outcomes)), key=lambda place: outcomes[place].position)
    candidates = torch.cat([batch.candidates for batch in batches])
    return Batch(
        outcomes=tuple(outcomes[place] for place in order),
        candidates=candidates[order],
        sightings=tuple(look for batch in batches for look in batch.sightings),
        views=tuple(view for batch in batches for view in batch.views),
        pictures={place: kept for batch in batches for place, kept in batch.pictures.items()},
        rereadings=sum((batch.rereadings for batch in batches), SecondReadings()),
    )


@dataclass(frozen=True, kw_only=True)
class Work(ABC):
    """What one cell does: everything that decides its verdicts, and nothing else."""

    key: str
    """The cell's key, copied into its outcomes."""
    classifier: Classifier
    """The classifier under test."""
    data: Dataset
    """Exactly the images of the cell, in canonical order."""
    threat: ThreatModel
    """Budget and goal."""
    seed: int
    """The run's seed."""

    @property
    def asked(self) -> Classifier:
        """The classifier that most passes go through, in batches of the chosen size."""
        return self.classifier

    @property
    def names(self) -> str:
        """Whose code runs, for messages where nobody can know which of two models it was."""
        return " or ".join(dict.fromkeys((self.classifier.name, self.asked.name)))

    @property
    def images_each(self) -> int:
        """Images that go through the classifier together for each position: one, or the views of it."""
        return 1

    @property
    def divisible(self) -> bool:
        """Whether images that are committed together may be worked on apart, with the same verdicts."""
        return True

    @abstractmethod
    def queue(self, batch_size: int, done: set[int]) -> list[list[int]]:
        """The positions still to do, cut into what is committed together; of any size or in fixed groups.

        Args:
            batch_size: Images in a pass.
            done: Positions that need no work.
        """

    @abstractmethod
    def run(self, positions: list[int]) -> Batch:
        """Do it for some images.

        Args:
            positions: Which images of the data.
        """

    def smaller(self, queue: list[list[int]], size: int) -> list[list[int]]:
        """What is left, in smaller batches."""
        return cut([position for batch in queue for position in batch], size)


@dataclass(frozen=True, kw_only=True)
class AttackWork(Work):
    """Work of an attack, which may draw for an image or for a whole group."""

    attack: Attack
    """The attack and its hyper-parameters."""

    @abstractmethod
    def at_once(self, batch_size: int) -> int:
        """Images between two commits, where the attack draws for each by itself."""

    @property
    def divisible(self) -> bool:
        """Not where the attack draws for a whole group."""
        return self.attack.per_image

    def queue(self, batch_size: int, done: set[int]) -> list[list[int]]:
        """What is still to do: of any size for per-image attacks, else the fixed groups."""
        everything = range(len(self.data))
        if self.attack.per_image:
            return cut(
                [position for position in everything if position not in done], self.at_once(batch_size)
            )
        groups = cut(list(everything), group_size(self.attack, self.data))
        return [group for group in groups if not done.issuperset(group)]

    def smaller(self, queue: list[list[int]], size: int) -> list[list[int]]:
        """See :meth:`Work.smaller`; fixed groups stay whole until they fail themselves."""
        return super().smaller(queue, size) if self.attack.per_image else queue


@dataclass(frozen=True, kw_only=True)
class Task(AttackWork):
    """An attack, and the harness's verdicts on what it hands in."""

    surrogate: Classifier | None = None
    """The model that candidates are crafted on; None: the classifier under test itself."""
    proven: frozenset[str] = frozenset()
    """Ids of images that are proven to withstand this attack: they are read, and not attacked."""

    @property
    def crafted_on(self) -> Classifier:
        """What the attack sees."""
        return self.surrogate or self.classifier

    @property
    def asked(self) -> Classifier:
        """What the attack sees."""
        return self.crafted_on

    def at_once(self, batch_size: int) -> int:
        """Several batches of an attack that fills its batch up as images fall.

        An attack that may spend very long on an image gets one batch: a kill costs at most one chunk, and
        progress shows once a chunk.
        """
        short = sum(self.attack.cost(self.threat)) <= SHORT_ATTACK
        return BATCHES_IN_A_CHUNK * batch_size if self.attack.refills and short else batch_size

    def run(self, positions: list[int]) -> Batch:
        """The four stations."""
        return _run(self, positions)


def applicable(data: Dataset, threat: ThreatModel, sources: Collection[int] = ()) -> Tensor:
    """Positions of the images that a goal applies to.

    Args:
        data: The data set.
        threat: With targets, images whose label is itself a target are left out: reading them as what
            they are is no attack.
        sources: If given, only images of these classes.

    Returns:
        Positions in the data set, ascending, int64.
    """
    wanted = torch.ones(len(data), dtype=torch.bool)
    if sources:
        wanted &= is_target(data.labels, sources)
    if threat.targets:
        wanted &= ~is_target(data.labels, threat.targets)
    return wanted.nonzero().flatten()


def group_size(attack: Attack, data: Dataset) -> int:
    """Images in the fixed groups of an attack: fewer the larger they are, whatever the machine."""
    pixels = int(data.images[0].numel())
    return max(4, min(2 * attack.group, attack.group * GROUP_PIXELS // pixels))


def cut(positions: list[int], size: int) -> list[list[int]]:
    """Consecutive pieces of at most ``size``."""
    return [positions[start : start + size] for start in range(0, len(positions), size)]


def _spread(total: int, count: int) -> Tensor:
    """Passes of another library's attack, which knows only their total, as equal whole shares."""
    return total // count + (torch.arange(count) < total % count).long()


def _run(task: Task, positions: list[int]) -> Batch:
    """The four stations: read, attack, verify, write down."""
    started = time.perf_counter()
    data, classifier, device = task.data.select(positions), task.classifier, task.classifier.device
    own = Stream(task.seed, data.ids, repr(task.attack))
    images, labels, rereadings = data.images.to(device), data.labels.to(device), SecondReadings()
    with classifier.fresh() as judge:
        clean = read(judge, images, labels, stream=own)
        if 0 in positions:  # once a cell, whoever has its first image
            at_work = {classifier.batch_size or len(positions)}
            rereadings = compare_sizes(judge, images, labels, clean.margin, at_work)
    draws = draws_of(classifier)[1]
    records = [
        untouched(task.key, position, data, row, clean, passes=draws)
        for row, position in enumerate(positions)
    ]
    candidates = data.images.clone()
    spared = torch.tensor([image in task.proven for image in data.ids])
    for row in (clean.correct & spared).nonzero().flatten().tolist():
        records[row] = spared_outcome(records[row])
    attacked = (clean.correct & ~spared).nonzero().flatten()
    if len(attacked):
        spent = _Spent(task, len(attacked))
        try:
            verified, later = _attack(task, data.select(attacked.tolist()), spent)
            rereadings += later
        except Exception as failure:
            passes, seconds = spent.passes(), time.perf_counter() - started
            if len(positions) > 1 or isinstance(failure, InvariantError | UnreachableError):
                raise
            failure = advised(failure) if task.surrogate is None else failure
            raise stranded(records[0], failure, passes[0], seconds) from failure
        gradients, passes = spent.gradients(), spent.passes()
        candidates[attacked] = verified.candidates
        for place, row in enumerate(attacked.tolist()):
            stage = spent.stages[place]
            record = judged(records[row], verified, place, task.threat, passes[place], stage)
            records[row] = with_gradients(record, gradients[place])
    seconds = (time.perf_counter() - started) / len(positions)
    outcomes = tuple(replace(record, seconds=seconds) for record in records)
    return Batch(outcomes=outcomes, candidates=candidates, rereadings=rereadings)


class _Spent:
    """Passes on the images that are attacked, to be read off whether or not the attack comes to its end.

    With a surrogate they are its own, the attack's work, and those of the harness on the classifier.
    """

    def __init__(self, task: Task, count: int) -> None:
        self._crafted_on, self._count = task.crafted_on, count
        self.meters: list[Meter] = []
        self.of_some: list[tuple[Meter, Tensor]] = []
        """Meters of some of the images, with their rows, (M,) int64 on the CPU."""

    @property
    def stages(self) -> list[str]:
        """Which stage of the attack, if it has stages, found the candidate of each image."""
        return self.meters[0].stages

    def gradients(self) -> list[GradientCounts]:
        """What was seen of each image's gradients; to be asked before `passes`, which resets the others'."""
        others = _spread(self._crafted_on.foreign_passes[1], self._count).tolist()
        counted = self.meters[0].gradients
        return [
            counts._replace(steps=counts.steps + more) for counts, more in zip(counted, others, strict=True)
        ]

    def passes(self) -> list[tuple[int, int]]:
        """Forward and backward passes of each image; what other libraries spent counts for these alone."""
        forward, backward = (_spread(total, self._count) for total in self._crafted_on.foreign_passes)
        self._crafted_on.foreign_passes[:] = [0, 0]
        for meter in self.meters:
            forward, backward = forward + meter.forward, backward + meter.backward
        for meter, rows in self.of_some:
            forward.index_add_(0, rows, meter.forward)
            backward.index_add_(0, rows, meter.backward)
        return list(zip(forward.tolist(), backward.tolist(), strict=True))


def _attack(task: Task, chosen: Dataset, spent: _Spent) -> tuple[Verified, SecondReadings]:
    """Verdicts on the candidates for images read correctly, by a copy of the model that saw no attack."""
    classifier, crafted_on = task.classifier, task.crafted_on
    images, labels = chosen.images.to(classifier.device), chosen.labels.to(classifier.device)
    masks = None if chosen.masks is None else chosen.masks.to(classifier.device)
    stream = Stream(task.seed, chosen.ids, repr(task.attack))

    def verify_rows(rows: Tensor, found: Tensor) -> Verified:
        # verification is counted, but it is not the attack's: it must not spend the attack's queries
        with classifier.fresh() as judge, judge.metered(len(rows)) as checks:
            spent.of_some.append((checks, rows.cpu()))
            own, inside = stream.select(rows), None if masks is None else masks[rows]
            return verify(judge, images[rows], labels[rows], found, task.threat, masks=inside, stream=own)

    repeated = True
    while repeated:
        with crafted_on.metered(len(chosen), task.attack.queries) as meter:
            spent.meters[:] = [meter]
            found = task.attack.perturb(
                crafted_on, images.clone(), labels.clone(), task.threat, stream, masks
            )
        repeated = crafted_on.gradient_guard.missed_faults()
    verified = verify_rows(torch.arange(len(chosen), device=images.device), found)
    limit, draws = task.attack.queries, draws_of(crafted_on)[0]
    attacked = Attacked(
        attack=task.attack,
        crafted_on=crafted_on,
        blind=task.surrogate is not None,
        left=None if limit is None else (limit - meter.forward // draws).to(images.device),
        images=images,
        labels=labels,
        masks=masks if task.threat.region == "mask" else None,
        threat=task.threat,
        stream=stream,
        note=classifier.note,
        read_off=spent.meters.append,
    )
    verified = finish_successes(attacked, verified, verify_rows)
    with classifier.fresh() as judge:
        candidates = verified.candidates.to(classifier.device)
        return verified, read_twice(classifier, judge, candidates, labels, verified.reading.margin)


def advised(failure: Exception) -> Exception:
    """The failure of an attack on a model that read the clean image: what to do is another thing then.

    The advice for a forward that raises is for images that do not fit; this one was read before.
    """
    if not isinstance(failure, ModelError) or failure.__cause__ is None:
        return failure
    remedy = "the clean image raises nothing: let its forward take any image in [0, 1], gradients too"
    found = ModelError(failure.what, where=failure.where, remedy=remedy)
    found.__cause__ = failure.__cause__
    return found


def stranded(
    record: OutcomeRecord, failure: Exception, passes: tuple[int, int], seconds: float
) -> AttackFailedError:
    """What is left of an image whose attack raised: its clean reading, and what was spent."""
    return AttackFailedError(attack_failed(record, one_line(failure), passes, seconds), failure)


def one_line(failure: BaseException) -> str:
    """An exception as one line for a person: our own speak for themselves, others are named."""
    text = str(failure) if isinstance(failure, RobustbenchError) else f"{type(failure).__name__}: {failure}"
    return " ".join(text.split())[:300]
