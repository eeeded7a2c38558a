"""The job of an attack cell.

A batch goes through four stages: predict the clean images, attack those that are correctly classified, verify
the candidates, write one outcome per image. A failure in a batch is confined to the image that fails.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustbench_local.attacks.base import Attack
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.device import move_batch
from robustbench_local.classifier.stochastic import passes_per_query
from robustbench_local.data.dataset import Dataset
from robustbench_local.errors import InvariantError, ModelError, UnreachableError
from robustbench_local.evaluation.harness.answer_agreement import (
    AgreementCounts,
    compare_batch_sizes,
    compare_clean_answers,
    compare_with_fresh_copy,
)
from robustbench_local.evaluation.harness.fixed_draw import attack_fixed_draw, can_fix_draw
from robustbench_local.evaluation.harness.job import (
    AttackFailedError,
    Job,
    OutcomeBatch,
    format_error_line,
    split_positions,
)
from robustbench_local.evaluation.harness.model_draws import (
    choose_draw_count,
    count_model_draws,
    may_answer_at_random,
)
from robustbench_local.evaluation.harness.outcome import (
    add_gradient_counts,
    build_attacked_outcome,
    build_clean_outcome,
    build_failed_attack_outcome,
    build_proven_outcome,
)
from robustbench_local.evaluation.harness.outside_checks import (
    check_candidates,
    keep_model_unchanged,
    keep_process_unchanged,
)
from robustbench_local.evaluation.harness.spent_passes import SpentPasses
from robustbench_local.evaluation.harness.success_refinement import (
    FINISHING_VERIFICATION_PASSES,
    AttackedImages,
    count_finishing_passes,
    finish_successes,
)
from robustbench_local.evaluation.harness.verify import VerificationResult, predict, verify
from robustbench_local.randomness import RandomStream
from robustbench_local.store.records import OutcomeRecord

BATCHES_PER_CHUNK = 4
"""Number of batches passed together to an attack that refills its batch."""
MAX_PASSES_FOR_CHUNKS = 1000
"""Maximum passes per image of an attack whose chunks hold several batches."""
HARNESS_PASSES = 3
"""The harness predicts the clean image, the candidate, and the candidate rounded to 8 bits."""
GROUP_REFERENCE_PIXELS = 3 * 32 * 32
"""Number of pixel values per image for which an attack's group size is defined."""


@dataclass(frozen=True, kw_only=True)
class BaseAttackJob(Job):
    """A job that runs an attack, which may draw random numbers per image or per group of images."""

    attack: Attack
    """The attack and its hyper-parameters."""

    @abstractmethod
    def compute_chunk_size(self, batch_size: int) -> int:
        """Return the number of images between two commits, where the attack draws per image."""

    @property
    def is_divisible(self) -> bool:
        """Return False where the attack draws for a whole group."""
        return self.attack.per_image

    def build_queue(self, batch_size: int, done_positions: set[int]) -> list[list[int]]:
        """Build the queue of remaining images: of any size for per-image attacks, else the fixed groups."""
        positions = range(self.image_count)
        if self.attack.per_image:
            return split_positions(
                [position for position in positions if position not in done_positions],
                self.compute_chunk_size(batch_size),
            )
        groups = split_positions(list(positions), compute_group_size(self.attack, self.data))
        return [group for group in groups if not done_positions.issuperset(group)]

    def split_queue(self, queue: list[list[int]], size: int) -> list[list[int]]:
        """Split the queue, see :meth:`Job.split_queue`; a fixed group stays whole until it fails itself."""
        return super().split_queue(queue, size) if self.attack.per_image else queue


@dataclass(frozen=True, kw_only=True)
class AttackJob(BaseAttackJob):
    """A job that runs an attack and verifies its candidates."""

    surrogate: Classifier | None = None
    """The model that candidates are crafted on; None: the classifier under test itself."""
    proven_images: frozenset[str] = frozenset()
    """Ids of images that are proven robust against this attack: they are predicted, and not attacked."""

    @property
    def attacked_model(self) -> Classifier:
        """The model that the attack queries."""
        return self.surrogate or self.classifier

    @property
    def queried_model(self) -> Classifier:
        """The model that the attack queries."""
        return self.attacked_model

    @property
    def max_passes(self) -> tuple[int, int]:
        """Maximum number of forward and backward passes over all images; misclassified images cost less."""
        cost = self.attack.estimate_cost_on(self.queried_model, self.threat)
        costs = (cost, count_finishing_passes(self.attack, self.threat))
        forward, backward = (sum(passes) for passes in zip(*costs, strict=True))
        draws = passes_per_query(self.queried_model)[0]
        once = forward // self.attack.eot_samples, backward // self.attack.eot_samples
        if draws > 1:  # the classifier averages over draws itself, in place of the attack
            forward, backward = (passes * draws // self.attack.eot_samples for passes in (forward, backward))
        verdict_passes = passes_per_query(self.classifier)[1]
        harness = HARNESS_PASSES + (FINISHING_VERIFICATION_PASSES if self.threat.is_ball else 0)
        harness = harness * verdict_passes + self.model_draws
        if self.fixes_draw:
            forward, backward = forward + once[0] + HARNESS_PASSES, backward + once[1]
        return self.image_count * (forward + harness), self.image_count * backward

    @property
    def fixes_draw(self) -> bool:
        """Whether the attack is repeated against one fixed draw; not if it never asks this classifier."""
        return self.surrogate is None and can_fix_draw(self.classifier)

    @property
    def model_draws(self) -> int:
        """Number of further answers to each candidate that count how often it succeeds."""
        if not may_answer_at_random(self.classifier):
            return 0
        return choose_draw_count(sum(self.attack.estimate_cost(self.threat)))

    def skip_proven_images(self, images: frozenset[str]) -> AttackJob:
        """Return the same attack on the other images only."""
        return replace(self, proven_images=images)

    def compute_chunk_size(self, batch_size: int) -> int:
        """Return several batches for an attack that refills its batch as images finish.

        An attack that may take very long per image gets one batch: a kill then costs at most one chunk, and
        progress shows after each chunk.
        """
        short = sum(self.attack.estimate_cost(self.threat)) <= MAX_PASSES_FOR_CHUNKS
        return BATCHES_PER_CHUNK * batch_size if self.attack.refills_batches and short else batch_size

    @property
    def stream_name(self) -> str:
        """The name under which the images' random numbers are drawn."""
        return repr(self.attack)

    @property
    def adapted_model(self) -> Classifier:
        """The model that an adaptive attack looks at before the first batch."""
        return self.attacked_model

    def run(self, positions: list[int]) -> OutcomeBatch:
        """Run the four stages."""
        return _run_attack_job(self, positions)

    def open_account(self, count: int) -> SpentPasses:
        """Open an account of the passes on attacked images."""
        return SpentPasses(self.attacked_model, count)

    def attack_images(
        self, chosen: Dataset, spent: SpentPasses
    ) -> tuple[VerificationResult, AgreementCounts]:
        """Attack correctly classified images and verify the candidates.

        Args:
            chosen: The images.
            spent: The account of their passes.
        """
        return attack_and_verify(self, chosen, spent)


def compute_group_size(attack: Attack, data: Dataset) -> int:
    """Return the size of an attack's fixed groups: smaller for larger images, the same on every machine."""
    pixels = int(data.images[0].numel())
    return max(4, min(2 * attack.group_size, attack.group_size * GROUP_REFERENCE_PIXELS // pixels))


def _run_attack_job(job: AttackJob, positions: list[int]) -> OutcomeBatch:
    """Run the four stages: predict, attack, verify, record."""
    started = time.perf_counter()
    data, classifier, device = job.select_images(positions), job.classifier, job.classifier.device
    own = RandomStream(job.seed, data.ids, repr(job.attack))
    images, labels = move_batch(data.images, device), move_batch(data.labels, device)
    agreement = AgreementCounts()
    with classifier.open_fresh_copy() as judge:
        clean = predict(judge, images, labels, stream=own)
        if 0 in positions:  # once per cell, for its first image
            at_work = {classifier.settings.batch_size or len(positions)}
            agreement = compare_batch_sizes(judge, images, labels, clean.margin, at_work)
    draws = passes_per_query(classifier)[1]
    records = [
        build_clean_outcome(job.key, position, data, row, clean, passes=draws)
        for row, position in enumerate(positions)
    ]
    candidates = data.images.clone()
    proven = torch.tensor([image in job.proven_images for image in data.ids])
    for row in (clean.correct & proven).nonzero().flatten().tolist():
        records[row] = build_proven_outcome(records[row])
    attacked = (clean.correct & ~proven).nonzero().flatten()
    if len(attacked):
        spent = job.open_account(len(attacked))
        try:
            verified, more_agreement = job.attack_images(data.select_images(attacked.tolist()), spent)
            agreement += more_agreement
            with classifier.open_fresh_copy() as judge:
                agreement += compare_clean_answers(judge, images, labels, clean.margin)
        except Exception as failure:
            passes, seconds = spent.collect_passes(), time.perf_counter() - started
            if len(positions) > 1 or isinstance(failure, InvariantError | UnreachableError):
                raise
            failure = replace_remedy(failure) if job.surrogate is None else failure
            raise build_attack_error(records[0], failure, passes[0], seconds) from failure
        gradients, passes = spent.collect_gradient_counts(), spent.collect_passes()
        candidates[attacked] = verified.candidates
        for index, row in enumerate(attacked.tolist()):
            stage = spent.stages[index]
            record = build_attacked_outcome(records[row], verified, index, job.threat, passes[index], stage)
            records[row] = add_gradient_counts(record, gradients[index])
    seconds = (time.perf_counter() - started) / len(positions)
    outcomes = tuple(replace(record, seconds=seconds) for record in records)
    return OutcomeBatch(outcomes=outcomes, candidates=candidates, agreement=agreement)


def _craft_candidates(
    job: AttackJob,
    attacked_model: Classifier,
    images: Tensor,
    labels: Tensor,
    masks: Tensor | None,
    stream: RandomStream,
    spent: SpentPasses,
) -> tuple[Tensor, Tensor]:
    """Run the attack, and again if faults of gradients were missed; return candidates and forward passes."""
    repeated = True
    while repeated:
        with attacked_model.count_passes(len(images), job.attack.queries) as counter:
            spent.pass_counters[:] = [counter]
            with (
                keep_model_unchanged(job.attack, job.classifier, attacked_model),
                keep_process_unchanged(job.attack, job.classifier.add_note),
            ):
                # copies: what an attack writes into its arguments must not reach the verification
                own_masks = None if masks is None else masks.clone()
                returned = job.attack.perturb(
                    attacked_model, images.clone(), labels.clone(), job.threat, stream, own_masks
                )
            candidates = check_candidates(job.attack, returned)
        repeated = attacked_model.gradient_guard.detect_missed_faults()
    return candidates, counter.forward_passes


def attack_and_verify(
    job: AttackJob, chosen: Dataset, spent: SpentPasses
) -> tuple[VerificationResult, AgreementCounts]:
    """Verify candidates for correctly classified images, on a copy that saw no attack."""
    classifier = job.classifier
    device = classifier.device
    images, labels = move_batch(chosen.images, device), move_batch(chosen.labels, device)
    attacked_model = job.attacked_model.accept_only(images, labels)
    masks = None if chosen.masks is None else move_batch(chosen.masks, device)
    stream = RandomStream(job.seed, chosen.ids, job.stream_name)

    def verify_rows(rows: Tensor, candidates: Tensor) -> VerificationResult:
        # verification is counted, but must not spend the attack's queries
        with classifier.open_fresh_copy() as judge, judge.count_passes(len(rows)) as checks:
            spent.partial_pass_counters.append((checks, rows.cpu()))
            own, inside = stream.select_images(rows), None if masks is None else masks[rows]
            return verify(judge, images[rows], labels[rows], candidates, job.threat, masks=inside, stream=own)

    candidates, forward_passes = _craft_candidates(job, attacked_model, images, labels, masks, stream, spent)
    verified = verify_rows(torch.arange(len(chosen), device=images.device), candidates)
    limit, draws = job.attack.queries, passes_per_query(attacked_model)[0]
    attacked = AttackedImages(
        attack=job.attack,
        attacked_model=attacked_model,
        is_transfer=job.surrogate is not None,
        queries_left=None if limit is None else (limit - forward_passes // draws).to(images.device),
        images=images,
        labels=labels,
        masks=masks if job.threat.region == "mask" else None,
        threat=job.threat,
        stream=stream,
        add_note=classifier.add_note,
        add_pass_counter=spent.pass_counters.append,
    )
    verified = finish_successes(attacked, verified, verify_rows)
    if job.fixes_draw:
        fixed, counters = attack_fixed_draw(classifier, job.attack, images, labels, job.threat, stream, masks)
        spent.pass_counters.extend(counters)
        verified = replace(verified, broken_fixed_draw=fixed)
    if job.model_draws:
        with classifier.open_fresh_copy() as judge, judge.count_passes(len(chosen)) as draw_passes:
            spent.pass_counters.append(draw_passes)
            verified = count_model_draws(judge, verified, labels.cpu(), job.threat, stream, job.model_draws)
    with classifier.open_fresh_copy() as judge:
        candidates = verified.candidates.to(classifier.device)
        fresh = judge.accept_only(images, labels)
        asked = fresh if judge is classifier else classifier.accept_only(images, labels)
        return verified, compare_with_fresh_copy(
            asked, fresh, candidates, labels, verified.predictions.margin
        )


def replace_remedy(failure: Exception) -> Exception:
    """Replace the advice in the error of a model that raises under attack but predicted the clean image.

    The usual advice for a forward that raises is about images of an unsuitable shape.
    """
    if not isinstance(failure, ModelError) or failure.__cause__ is None:
        return failure
    remedy = "the clean image raises nothing: let its forward take any image in [0, 1], gradients too"
    replaced = ModelError(failure.what, where=failure.where, remedy=remedy)
    replaced.__cause__ = failure.__cause__
    return replaced


def build_attack_error(
    record: OutcomeRecord, failure: Exception, spent_passes: tuple[int, int], seconds: float
) -> AttackFailedError:
    """Build the error for an image whose attack raised, with its clean prediction and the passes spent."""
    return AttackFailedError(
        build_failed_attack_outcome(record, format_error_line(failure), spent_passes, seconds), failure
    )
