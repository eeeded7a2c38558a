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
from robustbench_local.classifier.pass_counter import GradientCounts, PassCounter
from robustbench_local.classifier.stochastic import passes_per_query
from robustbench_local.data.dataset import Dataset
from robustbench_local.errors import InvariantError, ModelError, RobustbenchError, UnreachableError
from robustbench_local.evaluation.harness.outcome import (
    add_gradient_counts,
    build_attacked_outcome,
    build_clean_outcome,
    build_failed_attack_outcome,
    build_proven_outcome,
)
from robustbench_local.evaluation.harness.reproducibility import (
    AgreementCounts,
    compare_batch_sizes,
    compare_with_fresh_copy,
)
from robustbench_local.evaluation.harness.success_robustness import AttackedImages, finish_successes
from robustbench_local.evaluation.harness.verify import VerificationResult, predict, verify
from robustbench_local.randomness import RandomStream
from robustbench_local.store.records import OutcomeRecord, ViewPredictionsRecord, ViewRecord
from robustbench_local.threats.threat_model import ThreatModel, is_target

BATCHES_PER_CHUNK = 4
"""Batches that are handed together to an attack that refills its batch."""
MAX_PASSES_FOR_CHUNKS = 1000
"""Most passes an image of an attack whose images are handed over in chunks of several batches."""
GROUP_REFERENCE_PIXELS = 3 * 32 * 32
"""Pixel values of the image that an attack's group size is meant for."""


@dataclass(frozen=True, kw_only=True)
class OutcomeBatch:
    """The outcomes of some images, and the verified candidates beside them."""

    outcomes: tuple[OutcomeRecord, ...]
    """One an image, in the order of their positions."""
    candidates: Tensor
    """(N, C, H, W), on the CPU; the original where there was no valid candidate."""
    view_predictions: tuple[ViewPredictionsRecord, ...] = ()
    """What was read in every view of these images, where they are judged over views."""
    views: tuple[ViewRecord, ...] = ()
    """Those views."""
    report_images: Mapping[int, Mapping[str, npt.NDArray[np.generic]]] = field(default_factory=dict)
    """What is kept for the report besides the candidate, by position and name."""
    agreement: AgreementCounts = field(default_factory=AgreementCounts)
    """Whether the attacked model and a fresh copy of it agreed."""


class AttackFailedError(Exception):
    """An attack raised on an image that it had for itself, which was read before.

    Args:
        outcome: The record of the image: its clean reading, the passes spent, and an error.
        reason: What was raised.
    """

    def __init__(self, outcome: OutcomeRecord, cause: Exception) -> None:
        super().__init__(outcome, cause)  # both, for another process makes the same error from them
        self.outcome, self.cause = outcome, cause


def merge_batches(batches: Sequence[OutcomeBatch]) -> OutcomeBatch:
    """The outcomes of all these images as one batch, in the order of their positions.

    Args:
        batches: At least one; no image may be in two of them.
    """
    outcomes = [row for batch in batches for row in batch.outcomes]
    order = sorted(range(len(outcomes)), key=lambda place: outcomes[place].position)
    candidates = torch.cat([batch.candidates for batch in batches])
    return OutcomeBatch(
        outcomes=tuple(outcomes[place] for place in order),
        candidates=candidates[order],
        view_predictions=tuple(look for batch in batches for look in batch.view_predictions),
        views=tuple(view for batch in batches for view in batch.views),
        report_images={place: kept for batch in batches for place, kept in batch.report_images.items()},
        agreement=sum((batch.agreement for batch in batches), AgreementCounts()),
    )


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
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
    def queried_model(self) -> Classifier:
        """The classifier that most passes go through, in batches of the chosen size."""
        return self.classifier

    @property
    def model_names(self) -> str:
        """Whose code runs, for messages where nobody can know which of two models it was."""
        return " or ".join(dict.fromkeys((self.classifier.name, self.queried_model.name)))

    @property
    def images_per_position(self) -> int:
        """Images that go through the classifier together for each position: one, or the views of it."""
        return 1

    @property
    def is_divisible(self) -> bool:
        """Whether images that are committed together may be worked on apart, with the same verdicts."""
        return True

    @abstractmethod
    def build_queue(self, batch_size: int, done_positions: set[int]) -> list[list[int]]:
        """The positions still to do, cut into what is committed together; of any size or in fixed groups.

        Args:
            batch_size: Images in a pass.
            done_positions: Positions that need no work.
        """

    @abstractmethod
    def run(self, positions: list[int]) -> OutcomeBatch:
        """Do it for some images.

        Args:
            positions: Which images of the data.
        """

    def split_queue(self, queue: list[list[int]], size: int) -> list[list[int]]:
        """What is left, in smaller batches."""
        return split_positions([position for batch in queue for position in batch], size)


@dataclass(frozen=True, kw_only=True)
class BaseAttackJob(Job):
    """Work of an attack, which may draw for an image or for a whole group."""

    attack: Attack
    """The attack and its hyper-parameters."""

    @abstractmethod
    def compute_chunk_size(self, batch_size: int) -> int:
        """Images between two commits, where the attack draws for each by itself."""

    @property
    def is_divisible(self) -> bool:
        """Not where the attack draws for a whole group."""
        return self.attack.per_image

    def build_queue(self, batch_size: int, done_positions: set[int]) -> list[list[int]]:
        """What is still to do: of any size for per-image attacks, else the fixed groups."""
        everything = range(len(self.data))
        if self.attack.per_image:
            return split_positions(
                [position for position in everything if position not in done_positions],
                self.compute_chunk_size(batch_size),
            )
        groups = split_positions(list(everything), compute_group_size(self.attack, self.data))
        return [group for group in groups if not done_positions.issuperset(group)]

    def split_queue(self, queue: list[list[int]], size: int) -> list[list[int]]:
        """See :meth:`Work.split_queue`; fixed groups stay whole until they fail themselves."""
        return super().split_queue(queue, size) if self.attack.per_image else queue


@dataclass(frozen=True, kw_only=True)
class AttackJob(BaseAttackJob):
    """An attack, and the harness's verdicts on what it hands in."""

    surrogate: Classifier | None = None
    """The model that candidates are crafted on; None: the classifier under test itself."""
    proven_images: frozenset[str] = frozenset()
    """Ids of images that are proven to withstand this attack: they are read, and not attacked."""

    @property
    def attacked_model(self) -> Classifier:
        """What the attack sees."""
        return self.surrogate or self.classifier

    @property
    def queried_model(self) -> Classifier:
        """What the attack sees."""
        return self.attacked_model

    def compute_chunk_size(self, batch_size: int) -> int:
        """Several batches of an attack that fills its batch up as images fall.

        An attack that may spend very long on an image gets one batch: a kill costs at most one chunk, and
        progress shows once a chunk.
        """
        short = sum(self.attack.estimate_cost(self.threat)) <= MAX_PASSES_FOR_CHUNKS
        return BATCHES_PER_CHUNK * batch_size if self.attack.uses_engine and short else batch_size

    def run(self, positions: list[int]) -> OutcomeBatch:
        """The four stations."""
        return _run_attack_job(self, positions)


def find_applicable_positions(data: Dataset, threat: ThreatModel, sources: Collection[int] = ()) -> Tensor:
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


def compute_group_size(attack: Attack, data: Dataset) -> int:
    """Images in the fixed groups of an attack: fewer the larger they are, whatever the machine."""
    pixels = int(data.images[0].numel())
    return max(4, min(2 * attack.group_size, attack.group_size * GROUP_REFERENCE_PIXELS // pixels))


def split_positions(positions: list[int], size: int) -> list[list[int]]:
    """Consecutive pieces of at most ``size``."""
    return [positions[start : start + size] for start in range(0, len(positions), size)]


def _split_passes_evenly(total: int, count: int) -> Tensor:
    """Passes of another library's attack, which knows only their total, as equal whole shares."""
    return total // count + (torch.arange(count) < total % count).long()


def _run_attack_job(task: AttackJob, positions: list[int]) -> OutcomeBatch:
    """The four stations: read, attack, verify, write down."""
    started = time.perf_counter()
    data, classifier, device = task.data.select_images(positions), task.classifier, task.classifier.device
    own = RandomStream(task.seed, data.ids, repr(task.attack))
    images, labels, rereadings = data.images.to(device), data.labels.to(device), AgreementCounts()
    with classifier.open_fresh_copy() as judge:
        clean = predict(judge, images, labels, stream=own)
        if 0 in positions:  # once a cell, whoever has its first image
            at_work = {classifier.settings.batch_size or len(positions)}
            rereadings = compare_batch_sizes(judge, images, labels, clean.margin, at_work)
    draws = passes_per_query(classifier)[1]
    records = [
        build_clean_outcome(task.key, position, data, row, clean, passes=draws)
        for row, position in enumerate(positions)
    ]
    candidates = data.images.clone()
    spared = torch.tensor([image in task.proven_images for image in data.ids])
    for row in (clean.correct & spared).nonzero().flatten().tolist():
        records[row] = build_proven_outcome(records[row])
    attacked = (clean.correct & ~spared).nonzero().flatten()
    if len(attacked):
        spent = _SpentPasses(task, len(attacked))
        try:
            verified, later = _attack_and_verify(task, data.select_images(attacked.tolist()), spent)
            rereadings += later
        except Exception as failure:
            passes, seconds = spent.collect_passes(), time.perf_counter() - started
            if len(positions) > 1 or isinstance(failure, InvariantError | UnreachableError):
                raise
            failure = replace_remedy(failure) if task.surrogate is None else failure
            raise build_attack_error(records[0], failure, passes[0], seconds) from failure
        gradients, passes = spent.collect_gradient_counts(), spent.collect_passes()
        candidates[attacked] = verified.candidates
        for place, row in enumerate(attacked.tolist()):
            stage = spent.stages[place]
            record = build_attacked_outcome(records[row], verified, place, task.threat, passes[place], stage)
            records[row] = add_gradient_counts(record, gradients[place])
    seconds = (time.perf_counter() - started) / len(positions)
    outcomes = tuple(replace(record, seconds=seconds) for record in records)
    return OutcomeBatch(outcomes=outcomes, candidates=candidates, agreement=rereadings)


class _SpentPasses:
    """Passes on the images that are attacked, to be read off whether or not the attack comes to its end.

    With a surrogate they are its own, the attack's work, and those of the harness on the classifier.
    """

    def __init__(self, task: AttackJob, count: int) -> None:
        self._attacked_model, self._count = task.attacked_model, count
        self.pass_counters: list[PassCounter] = []
        self.partial_pass_counters: list[tuple[PassCounter, Tensor]] = []
        """Meters of some of the images, with their rows, (M,) int64 on the CPU."""

    @property
    def stages(self) -> list[str]:
        """Which stage of the attack, if it has stages, found the candidate of each image."""
        return self.pass_counters[0].stages

    def collect_gradient_counts(self) -> list[GradientCounts]:
        """What was seen of each image's gradients; to be asked before `passes`, which resets the others'."""
        others = _split_passes_evenly(self._attacked_model.external_passes[1], self._count).tolist()
        counted = self.pass_counters[0].gradient_counts
        return [
            counts._replace(steps=counts.steps + more) for counts, more in zip(counted, others, strict=True)
        ]

    def collect_passes(self) -> list[tuple[int, int]]:
        """Forward and backward passes of each image; what other libraries spent counts for these alone."""
        forward, backward = (
            _split_passes_evenly(total, self._count) for total in self._attacked_model.take_external_passes()
        )
        for meter in self.pass_counters:
            forward, backward = forward + meter.forward_passes, backward + meter.backward_passes
        for meter, rows in self.partial_pass_counters:
            forward.index_add_(0, rows, meter.forward_passes)
            backward.index_add_(0, rows, meter.backward_passes)
        return list(zip(forward.tolist(), backward.tolist(), strict=True))


def _attack_and_verify(
    task: AttackJob, chosen: Dataset, spent: _SpentPasses
) -> tuple[VerificationResult, AgreementCounts]:
    """Verdicts on the candidates for images read correctly, by a copy of the model that saw no attack."""
    classifier, crafted_on = task.classifier, task.attacked_model
    images, labels = chosen.images.to(classifier.device), chosen.labels.to(classifier.device)
    masks = None if chosen.masks is None else chosen.masks.to(classifier.device)
    stream = RandomStream(task.seed, chosen.ids, repr(task.attack))

    def verify_rows(rows: Tensor, found: Tensor) -> VerificationResult:
        # verification is counted, but it is not the attack's: it must not spend the attack's queries
        with classifier.open_fresh_copy() as judge, judge.count_passes(len(rows)) as checks:
            spent.partial_pass_counters.append((checks, rows.cpu()))
            own, inside = stream.select_images(rows), None if masks is None else masks[rows]
            return verify(judge, images[rows], labels[rows], found, task.threat, masks=inside, stream=own)

    repeated = True
    while repeated:
        with crafted_on.count_passes(len(chosen), task.attack.queries) as meter:
            spent.pass_counters[:] = [meter]
            found = task.attack.perturb(
                crafted_on, images.clone(), labels.clone(), task.threat, stream, masks
            )
        repeated = crafted_on.gradient_guard.detect_missed_faults()
    verified = verify_rows(torch.arange(len(chosen), device=images.device), found)
    limit, draws = task.attack.queries, passes_per_query(crafted_on)[0]
    attacked = AttackedImages(
        attack=task.attack,
        attacked_model=crafted_on,
        is_transfer=task.surrogate is not None,
        queries_left=None if limit is None else (limit - meter.forward_passes // draws).to(images.device),
        images=images,
        labels=labels,
        masks=masks if task.threat.region == "mask" else None,
        threat=task.threat,
        stream=stream,
        add_note=classifier.add_note,
        add_pass_counter=spent.pass_counters.append,
    )
    verified = finish_successes(attacked, verified, verify_rows)
    with classifier.open_fresh_copy() as judge:
        candidates = verified.candidates.to(classifier.device)
        return verified, compare_with_fresh_copy(
            classifier, judge, candidates, labels, verified.predictions.margin
        )


def replace_remedy(failure: Exception) -> Exception:
    """The failure of an attack on a model that read the clean image: what to do is another thing then.

    The advice for a forward that raises is for images that do not fit; this one was read before.
    """
    if not isinstance(failure, ModelError) or failure.__cause__ is None:
        return failure
    remedy = "the clean image raises nothing: let its forward take any image in [0, 1], gradients too"
    found = ModelError(failure.what, where=failure.where, remedy=remedy)
    found.__cause__ = failure.__cause__
    return found


def build_attack_error(
    record: OutcomeRecord, failure: Exception, spent_passes: tuple[int, int], seconds: float
) -> AttackFailedError:
    """What is left of an image whose attack raised: its clean reading, and what was spent."""
    return AttackFailedError(
        build_failed_attack_outcome(record, format_error_line(failure), spent_passes, seconds), failure
    )


def format_error_line(failure: BaseException) -> str:
    """An exception as one line for a person: our own speak for themselves, others are named."""
    text = str(failure) if isinstance(failure, RobustbenchError) else f"{type(failure).__name__}: {failure}"
    return " ".join(text.split())[:300]
