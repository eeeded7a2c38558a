"""The engine of the attacks: many searches side by side, each ended as early as possible.

Work items (an image, a restart, perhaps a target class or a radius) wait in a queue. As many items as fit
into a batch of the classifier are active. All of them share one forward pass per step, which serves both the
loss and the success check. An item ends when a success is confirmed, for itself or for another item of its
image, or when its steps are used up. The next item in the queue takes its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from robustbench_local.attacks.base import AttackInputs
from robustbench_local.attacks.core.expectation import (
    STEPS_BETWEEN_REFRESHES,
    DrawVerdicts,
    average_draws,
    confirm_by_draws,
    judge_results,
)
from robustbench_local.attacks.core.search import PointEvaluation, Search, State
from robustbench_local.attacks.core.work_items import ActiveSet, TensorTable, WorkItems
from robustbench_local.classifier import Classifier
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.threat_model import ThreatModel

PIXEL_VALUES_PER_BATCH = 128 * 3 * 32 * 32
"""Pixel values in a default batch: 128 images of 32 px."""
_REFILL_SHARE = 0.75
"""Fraction of the batch size below which a batch is refilled; each refill copies the active items."""
_LOOKAHEAD_BATCH_SHARE = 0.5
"""Fraction of the batch size that points evaluated ahead may fill."""
_MIN_LOOKAHEAD_POINTS = 8
"""Minimum points per item for evaluation ahead. In larger batches the cost grows with the number of images,
so that discarded evaluations would not be free."""
_STEPS_BETWEEN_SYNCS = 8
"""Steps between checks for finished items on a GPU; each check waits for the device's queue."""


class Engine:
    """Runs searches on a batch of images and stores the best point of each image.

    Args:
        classifier: Inside ``classifier.evaluation_mode()``.
        images: (N, C, H, W) in [0, 1], not modified.
        labels: True classes, (N,).
        stream: The images' random numbers.
        masks: (N, 1, H, W) boolean, or None.
        early_stop: Whether an item ends with its first confirmed success, and its image with it.
        eot_samples: Passes averaged per evaluation, for classifiers whose answers vary by chance. With more
            than one, fresh draws confirm each success; see core/expectation.py.
        force_float32: Whether to compute in float32 even if the classifier allows a lower precision, as a
            search for the decision boundary itself needs.

    Attributes:
        points: (N, C, H, W): the best point of each image so far; the original if there is none.
        scores: (N,): the score of that point; over draws, above 0 if most of them succeed.
        finished: (N,) boolean: images whose search has ended.
    """

    def __init__(
        self,
        classifier: Classifier,
        images: Tensor,
        labels: Tensor,
        stream: RandomStream,
        masks: Tensor | None = None,
        *,
        early_stop: bool = True,
        eot_samples: int = 1,
        force_float32: bool = False,
    ) -> None:
        self.classifier, self.images, self.labels, self.masks = classifier, images, labels, masks
        self.points = images.clone()
        self.scores = torch.full((len(images),), -torch.inf, device=images.device)
        self.finished = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self._stream, self._early_stop, self._eot_samples = stream, early_stop, eot_samples
        self._steps_between_syncs = 1 if images.device.type == "cpu" else _STEPS_BETWEEN_SYNCS
        self._uses_bf16 = classifier.settings.search_precision == "bf16" and not force_float32
        self._has_new_results = self._has_judged = False
        self._empty = images.new_empty(0)

    @classmethod
    def from_inputs(
        cls,
        inputs: AttackInputs,
        *,
        early_stop: bool = True,
        eot_samples: int = 1,
        force_float32: bool = False,
    ) -> Engine:
        """Build an engine for the arguments of an attack; all others as for the class."""
        return cls(
            inputs.classifier,
            inputs.images,
            inputs.labels,
            inputs.stream,
            inputs.masks,
            early_stop=early_stop,
            eot_samples=eot_samples,
            force_float32=force_float32,
        )

    @contextmanager
    def use_classifier(self, classifier: Classifier) -> Iterator[None]:
        """Query another classifier while open, such as the same model with other gradients."""
        before, self.classifier = self.classifier, classifier
        try:
            yield
        finally:
            self.classifier = before

    @contextmanager
    def use_draws(self, eot_samples: int) -> Iterator[None]:
        """Average each evaluation over another number of passes while open."""
        before, self._eot_samples = self._eot_samples, eot_samples
        try:
            yield
        finally:
            self._eot_samples = before

    @property
    def batch_size(self) -> int:
        """Images per pass; it falls where memory runs out."""
        return self.classifier.limit_batch_size(compute_default_batch_size(self.images))

    @property
    def eot_samples(self) -> int:
        """Passes averaged per evaluation."""
        return self._eot_samples

    def find_successes(self) -> Tensor:
        """Return the images with a success so far, (N,) boolean; over draws, in most of them."""
        return self.finished | (self._has_judged & (self.scores > 0))

    def select_inputs(self, rows: Tensor, threat: ThreatModel) -> AttackInputs:
        """Return the arguments of an attack on the images of these rows, (M,) int64."""
        return AttackInputs(
            self.classifier,
            self.images[rows],
            self.labels[rows],
            threat,
            self._stream.select_images(rows),
            None if self.masks is None else self.masks[rows],
        )

    def find_unfinished_rows(self) -> Tensor:
        """Return the indices of the unfinished images, ascending, int64."""
        return (~self.finished).nonzero().flatten()

    def build_items(
        self, restart: int = 0, targets: Tensor | None = None, eps: Tensor | None = None
    ) -> WorkItems:
        """Build work items for the unfinished images.

        Args:
            restart: Index of the path.
            targets: (N, T) target classes, the most promising first, with one item for each; None: one item
                per image. The first targets of all images precede the second ones, which are skipped for most
                images.
            eps: (N,) radii; None: the threat model's radius.
        """
        rows = self.find_unfinished_rows()
        item_targets = None
        if targets is not None:
            item_targets = targets[rows].t().flatten()
            rows = rows.repeat(targets.shape[1])
        radii = None if eps is None else eps[rows]
        return WorkItems(rows=rows, restarts=torch.full_like(rows, restart), targets=item_targets, eps=radii)

    def run(self, search: Search[State], items: WorkItems) -> None:
        """Search until every item has ended; results are in ``points``, ``scores`` and ``finished``.

        Args:
            search: The search.
            items: Items to search, in this order.
        """
        if self.classifier.settings.compile_steps:
            # all searches of a class share the compiled code; sizes vary as items start and end
            search.step = torch.compile(search.step, dynamic=True)  # type: ignore[method-assign]
        front: ActiveSet | None = None
        clock = 0
        while True:
            front, items = self._refill_batch(search, front, items)
            if front is None:
                return
            if front.verdicts is not None and clock % STEPS_BETWEEN_REFRESHES == STEPS_BETWEEN_REFRESHES - 1:
                self._refresh_best_scores(search, front)
            front = self._evaluate_and_step(search, front, clock % self._steps_between_syncs == 0)
            if front is not None:
                front = self._retire_exhausted(search, front)
            clock += 1

    def _refill_batch(
        self, search: Search[State], front: ActiveSet | None, items: WorkItems
    ) -> tuple[ActiveSet | None, WorkItems]:
        """Start waiting items if the batch has space; items of finished images never start."""
        under_way = 0 if front is None else len(front)
        if len(items) == 0 or under_way > _REFILL_SHARE * self.batch_size:
            return front, items
        items = items.select_rows((~self.finished[items.rows]).nonzero().flatten())
        room = torch.arange(min(len(items), self.batch_size - under_way), device=items.rows.device)
        waiting_indices = torch.arange(len(room), len(items), device=items.rows.device)
        if len(room) == 0:
            return front, items
        fresh = self._start_items(search, items.select_rows(room))
        return fresh if front is None else front.append_rows(fresh), items.select_rows(waiting_indices)

    def _start_items(self, search: Search[State], items: WorkItems) -> ActiveSet:
        rows = items.rows
        originals = self.images[rows]
        front = ActiveSet(
            **{name: getattr(items, name) for name in ("rows", "restarts", "targets", "eps")},
            originals=originals,
            labels=self.labels[rows],
            masks=None if self.masks is None else self.masks[rows],
            points=originals,
            age=torch.zeros(len(rows), dtype=torch.int64),
            best_points=originals.clone(),
            best_scores=originals.new_full((len(rows),), -torch.inf),
            done=torch.zeros_like(rows, dtype=torch.bool),
            state=TensorTable(),
        )
        if self._eot_samples > 1:
            front.verdicts = DrawVerdicts.for_items(front)
        front.state = search.start_items(
            front, self._stream.select_images(rows), _build_draw_names(search, items)
        )
        return front

    def _evaluate_and_step(self, search: Search[State], front: ActiveSet, ask: bool) -> ActiveSet | None:
        """Evaluate every point, and take one step of the items that continue."""
        with self._select_precision():
            evaluation = self._evaluate_ahead(search, front)
        self._update_best_points(search, front, evaluation.logits)
        if ask and self._early_stop:
            self._confirm_successes(search, front)
            if self._has_new_results or bool(front.done.any()):
                remaining = self._remove_finished(search, front, evaluation)
                if remaining is None:
                    return None
                front, evaluation = remaining
        front.points = search.step(front, front.state, evaluation)  # type: ignore[arg-type]  # start_items made it
        front.increment_ages()
        return front

    def _evaluate_ahead(self, search: Search[State], front: ActiveSet) -> PointEvaluation:
        """Evaluate the current points, or several points of each item up to the first improvement.

        Finding the first improvement waits for the device, once for several steps.
        """
        room = int(_LOOKAHEAD_BATCH_SHARE * self.batch_size) // len(front)
        may_look_ahead = room >= _MIN_LOOKAHEAD_POINTS and front.verdicts is None
        counts = search.count_lookahead(front, room) if may_look_ahead else None
        if counts is None:
            return self._evaluate_points(search, front)
        of = torch.repeat_interleave(counts)
        begins = counts.cumsum(0) - counts
        offsets = torch.arange(len(of)) - begins[of]
        lookahead, item = search.build_lookahead(front, of, offsets), of.to(front.rows.device)
        lookahead_front = replace(
            front, rows=front.rows[item], labels=front.labels[item], points=lookahead.points
        )
        logits = self._compute_logits(lookahead_front)
        scores = search.score_points(lookahead_front, logits)[0]
        helps = search.is_improvement(scores, front.best_scores[item]).to(of.device)
        stops = torch.where(helps, offsets, counts[of] - 1)
        steps = (counts - 1).scatter_reduce(0, of, stops, "amin")
        chosen = begins + steps
        reached = lookahead.select_rows(chosen)
        front.points = reached.points
        front.advance_ages(steps)
        search.advance_items(front, reached, counts - 1 - steps)
        return PointEvaluation(
            logits=logits[chosen.to(logits.device)], losses=self._empty, gradient=self._empty
        )

    def _remove_finished(
        self, search: Search[State], front: ActiveSet, evaluation: PointEvaluation
    ) -> tuple[ActiveSet, PointEvaluation] | None:
        """Collect the results of ended items, and drop them and the other items of their images."""
        self._collect_results(search, front, (front.done | self.finished[front.rows]).nonzero().flatten())
        is_staying = ~self.finished[front.rows]
        self._has_new_results = False
        index = is_staying.nonzero().flatten()
        if len(index) == 0:
            return None
        if len(index) == len(front):
            return front, evaluation
        parts = (evaluation.logits, evaluation.losses, evaluation.gradient)
        logits, losses, gradient = (part if part.numel() == 0 else part[index] for part in parts)
        return front.select_rows(index), PointEvaluation(logits=logits, losses=losses, gradient=gradient)

    def _retire_exhausted(self, search: Search[State], front: ActiveSet) -> ActiveSet | None:
        """Evaluate the last points of the items whose steps are used up, and remove them."""
        youngest, oldest = front.get_age_range()
        if oldest < search.steps:
            return front
        over = front.age >= search.steps
        leaving = front if youngest >= search.steps else front.select_rows(over.nonzero().flatten())
        self._confirm_successes(search, leaving)
        self._update_best_points(search, leaving, self._compute_logits(leaving))
        self._collect_results(search, leaving, torch.arange(len(leaving), device=leaving.rows.device))
        return None if leaving is front else front.select_rows((~over).nonzero().flatten())

    def _update_best_points(self, search: Search[State], front: ActiveSet, logits: Tensor) -> None:
        """Store each point that is better than the best point of its item."""
        scores, done = search.score_points(front, logits)
        if front.verdicts is not None:  # a point below a refuted one is no new success
            done = done & (scores > front.best_scores)
        search.update_best_points(front, scores)
        front.done = front.done | done

    def _collect_results(self, search: Search[State], front: ActiveSet, leaving: Tensor) -> None:
        """Store the best points of ended items, (L,) int64: the best of each image's items."""
        if front.verdicts is not None:
            judge_results(search, self.classifier, front, leaving)
            self._has_judged = True
        rows, scores = front.rows[leaving], front.best_scores[leaving]
        best = self.scores.scatter_reduce(0, rows, scores, "amax")
        winners = ((scores == best[rows]) & (best[rows] > self.scores[rows])).nonzero().flatten()
        self.points[rows[winners]] = front.best_points[leaving[winners]]
        self.scores = best
        if self._early_stop:
            self.finished[rows[front.done[leaving]]] = True
            self._has_new_results = True  # for other items of their images

    def _select_precision(self) -> AbstractContextManager[object]:
        """Return the precision of an evaluation: float32, or bf16, which trades successes for speed."""
        return (
            torch.autocast(self.images.device.type, dtype=torch.bfloat16)
            if self._uses_bf16
            else nullcontext()
        )

    def _confirm_successes(self, search: Search[State], front: ActiveSet) -> None:
        """Confirm successes before their items end: those found in bf16 in float32, others by fresh draws."""
        if self._uses_bf16:
            self._confirm_in_float32(search, front)
        if front.verdicts is not None and bool(front.done.any()):
            confirm_by_draws(search, self.classifier, front)

    def _confirm_in_float32(self, search: Search[State], front: ActiveSet) -> None:
        """Confirm successes found in bf16 in float32 before their items end."""
        if not bool(front.done.any()):
            return
        index = front.done.nonzero().flatten()
        claimed = front.select_rows(index)
        claimed.points = claimed.best_points
        scores, really = search.score_points(claimed, self._compute_logits(claimed))
        front.done[index] = really
        # a failed point must not score above the next one: bf16 and float32 scores are not comparable
        front.best_scores[index] = torch.where(really, scores, -torch.inf)

    def _evaluate_points(self, search: Search[State], front: ActiveSet) -> PointEvaluation:
        loss = search.build_loss(front)
        if loss is None:
            return PointEvaluation(
                logits=self._compute_logits(front), losses=self._empty, gradient=self._empty
            )
        evaluations = [
            self.classifier.compute_gradient(front.points, loss, front.rows) for _ in range(self._eot_samples)
        ]
        logits, losses, gradient = evaluations[0]
        if len(evaluations) > 1:
            answers, values, slopes = zip(*evaluations, strict=True)
            logits = average_draws(answers)
            losses, gradient = torch.stack(values).mean(dim=0), torch.stack(slopes).mean(dim=0)
        return PointEvaluation(logits=logits, losses=losses, gradient=gradient)

    def _refresh_best_scores(self, search: Search[State], front: ActiveSet) -> None:
        """Score the best points by other draws where a search keeps what scores highest."""
        if search.build_loss(front) is None:
            best = replace(front, points=front.best_points)
            is_known = front.best_scores > -torch.inf
            scores = search.score_points(best, self._compute_logits(best))[0]
            front.best_scores = torch.where(is_known, scores, front.best_scores)

    def compute_logits(self, points: Tensor, rows: Tensor) -> Tensor:
        """Return logits of points, (M, C, H, W), of the images of these rows, averaged over draws."""
        return average_draws([self.classifier(points, rows) for _ in range(self._eot_samples)])

    def _compute_logits(self, front: ActiveSet) -> Tensor:
        return self.compute_logits(front.points, front.rows)


def compute_default_batch_size(images: Tensor) -> int:
    """Return a batch size that keeps memory use similar for every image size, (N, C, H, W)."""
    pixels = max(1, images[0].numel() if len(images) else 1)
    return max(2, min(256, PIXEL_VALUES_PER_BATCH // pixels))


def _build_draw_names(search: Search[State], items: WorkItems) -> list[str]:
    restarts = items.restarts.tolist()
    targets = restarts if items.targets is None else items.targets.tolist()
    if items.targets is None:
        return [f"{search.name}/{restart}" for restart in restarts]
    return [f"{search.name}/{restart}/{target}" for restart, target in zip(restarts, targets, strict=True)]
