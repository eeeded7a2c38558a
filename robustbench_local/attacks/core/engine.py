"""The engine under the attacks: many searches at once, none longer than it has to be.

Work items (an image, a restart, perhaps a target class or a radius) wait in a queue. As many as the
classifier takes at a time are under way. All of them see one forward pass a step, which serves the loss and
the look for success. An item leaves when a success is confirmed, for itself or for another item of its
image, or when its steps are used up, and the next one takes its place.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from robustbench_local.attacks.core.search import Search, Seen, State
from robustbench_local.attacks.core.work_items import Front, Items, Rows
from robustbench_local.classifier import Classifier
from robustbench_local.randomness import Stream

PIXELS_AT_A_TIME = 128 * 3 * 32 * 32
"""Pixel values in a batch when nobody says otherwise: 128 images of 32 px."""
_REFILL_AT = 0.75
"""A batch is filled up when it has shrunk to this share: each time costs a copy of what is under way."""
_SHARE_AHEAD = 0.5
"""Points that are looked at ahead of their time fill a batch to this share of its size."""
_FEWEST_AHEAD = 8
"""So many of each item have to fit in there: a batch that is not small costs by its images, those that are
looked at in vain included."""
_STEPS_BETWEEN_QUESTIONS = 8
"""On a GPU the host asks only so often which items are done: asking waits for the queue to run dry."""


class Engine:
    """Runs searches on a batch of images and keeps the best point of each.

    Args:
        classifier: Inside ``classifier.attacked()``.
        images: (N, C, H, W) in [0, 1], left untouched.
        labels: True classes, (N,).
        stream: The images' random numbers.
        masks: (N, 1, H, W) boolean, or None.
        early_stop: Whether an item ends with its first confirmed success, and its image with it.
        draws: Passes that are averaged for one look, for classifiers that draw random numbers themselves
            (expectation over transformation, Athalye et al. 2018, arXiv:1707.07397).
        exact: Whether to look in float32 whatever the classifier allows: where the border lies is at stake.

    Attributes:
        points: (N, C, H, W): the best point of each image so far; the original if there is none.
        scores: (N,): how good it is.
        found: (N,) boolean: the images that need no more work.
    """

    def __init__(
        self,
        classifier: Classifier,
        images: Tensor,
        labels: Tensor,
        stream: Stream,
        masks: Tensor | None = None,
        *,
        early_stop: bool = True,
        draws: int = 1,
        exact: bool = False,
    ) -> None:
        self.classifier, self.images, self.labels, self.masks = classifier, images, labels, masks
        self.points = images.clone()
        self.scores = torch.full((len(images),), -torch.inf, device=images.device)
        self.found = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self.size = classifier.batch_size or default_batch_size(images)
        self._stream, self._early_stop, self._draws = stream, early_stop, draws
        self._between = 1 if images.device.type == "cpu" else _STEPS_BETWEEN_QUESTIONS
        self._half = classifier.search_precision == "bf16" and not exact
        self._news = False
        self._none = images.new_empty(0)

    def open(self) -> Tensor:
        """Rows of the images that still need work, ascending, int64."""
        return (~self.found).nonzero().flatten()

    def items(self, restart: int = 0, targets: Tensor | None = None, eps: Tensor | None = None) -> Items:
        """Work items for the open images.

        Args:
            restart: Number of the path.
            targets: (N, T) classes to steer for, the most promising first: an item for each; None: one item
                an image. All images' first targets stand before any second one, which most images are
                then spared.
            eps: (N,) radii; None: the threat model's.
        """
        rows = self.open()
        wanted = None
        if targets is not None:
            wanted = targets[rows].t().flatten()
            rows = rows.repeat(targets.shape[1])
        radii = None if eps is None else eps[rows]
        return Items(rows=rows, restarts=torch.full_like(rows, restart), targets=wanted, eps=radii)

    def run(self, search: Search[State], items: Items) -> None:
        """Search until every item has left; ``points``, ``scores`` and ``found`` say what came of it.

        Args:
            search: How to search.
            items: What to search, in this order.
        """
        if self.classifier.compile_steps:
            # every search of a kind shares the compiled code; sizes vary as items come and go
            search.step = torch.compile(search.step, dynamic=True)  # type: ignore[method-assign]
        front: Front | None = None
        clock = 0
        while True:
            front, items = self._refill(search, front, items)
            if front is None:
                return
            front = self._look(search, front, clock % self._between == 0)
            if front is not None:
                front = self._retire(search, front)
            clock += 1

    def _refill(self, search: Search[State], front: Front | None, items: Items) -> tuple[Front | None, Items]:
        """Let waiting items in if there is room; those of images that are done never start."""
        under_way = 0 if front is None else len(front)
        if len(items) == 0 or under_way > _REFILL_AT * self.size:
            return front, items
        items = items.pick((~self.found[items.rows]).nonzero().flatten())
        room = torch.arange(min(len(items), self.size - under_way), device=items.rows.device)
        rest = torch.arange(len(room), len(items), device=items.rows.device)
        if len(room) == 0:
            return front, items
        fresh = self._admit(search, items.pick(room))
        return fresh if front is None else front.join(fresh), items.pick(rest)

    def _admit(self, search: Search[State], items: Items) -> Front:
        rows = items.rows
        originals = self.images[rows]
        front = Front(
            **{name: getattr(items, name) for name in ("rows", "restarts", "targets", "eps")},
            originals=originals,
            labels=self.labels[rows],
            masks=None if self.masks is None else self.masks[rows],
            points=originals,
            age=torch.zeros(len(rows), dtype=torch.int64),
            best_points=originals.clone(),
            best_scores=originals.new_full((len(rows),), -torch.inf),
            done=torch.zeros_like(rows, dtype=torch.bool),
            state=Rows(),
        )
        front.state = search.begin(front, self._stream.select(rows), _draw_names(search, items))
        return front

    def _look(self, search: Search[State], front: Front, ask: bool) -> Front | None:
        """One look at every point, and one step of the items that go on."""
        with self._precision():
            seen = self._leap(search, front)
        self._offer(search, front, seen.logits)
        if ask and self._early_stop:
            self._confirm(search, front)
            if self._news or bool(front.done.any()):
                parted = self._part(front, seen)
                if parted is None:
                    return None
                front, seen = parted
        front.points = search.step(front, front.state, seen)  # type: ignore[arg-type]  # begin made it
        front.grow()
        return front

    def _leap(self, search: Search[State], front: Front) -> Seen:
        """See the present points; or several of each item at once, and go on to the first that helps.

        Which that is has to be known: a wait for the device, once for several steps.
        """
        room = int(_SHARE_AHEAD * self.size) // len(front)
        counts = search.ahead(front, room) if room >= _FEWEST_AHEAD else None
        if counts is None:
            return self._see(search, front)
        of = torch.repeat_interleave(counts)
        begins = counts.cumsum(0) - counts
        offsets = torch.arange(len(of)) - begins[of]
        there, item = search.foresee(front, of, offsets), of.to(front.rows.device)
        many = replace(front, rows=front.rows[item], labels=front.labels[item], points=there.points)
        logits = self._logits(many)
        scores = search.judge(many, logits)[0]
        helps = search.helps(scores, front.best_scores[item]).to(of.device)
        stops = torch.where(helps, offsets, counts[of] - 1)
        steps = (counts - 1).scatter_reduce(0, of, stops, "amin")
        chosen = begins + steps
        reached = there.pick(chosen)
        front.points = reached.points
        front.leap(steps)
        search.leap(front, reached, counts - 1 - steps)
        return Seen(logits=logits[chosen.to(logits.device)], losses=self._none, gradient=self._none)

    def _part(self, front: Front, seen: Seen) -> tuple[Front, Seen] | None:
        """Take in what the leaving items found, and go on with the others, if any, and all siblings' luck."""
        self._harvest(front, (front.done | self.found[front.rows]).nonzero().flatten())
        staying = ~self.found[front.rows]
        self._news = False
        index = staying.nonzero().flatten()
        if len(index) == 0:
            return None
        if len(index) == len(front):
            return front, seen
        parts = (seen.logits, seen.losses, seen.gradient)
        logits, losses, gradient = (part if part.numel() == 0 else part[index] for part in parts)
        return front.pick(index), Seen(logits=logits, losses=losses, gradient=gradient)

    def _retire(self, search: Search[State], front: Front) -> Front | None:
        """Look at the last points of the items whose steps are used up, and let them go."""
        youngest, oldest = front.span()
        if oldest < search.steps:
            return front
        over = front.age >= search.steps
        leaving = front if youngest >= search.steps else front.pick(over.nonzero().flatten())
        self._confirm(search, leaving)
        self._offer(search, leaving, self._logits(leaving))
        self._harvest(leaving, torch.arange(len(leaving), device=leaving.rows.device))
        return None if leaving is front else front.pick((~over).nonzero().flatten())

    def _offer(self, search: Search[State], front: Front, logits: Tensor) -> None:
        """Keep each point that is better than what its item knows."""
        scores, done = search.judge(front, logits)
        search.keep(front, scores)
        front.done = front.done | done

    def _harvest(self, front: Front, leaving: Tensor) -> None:
        """Bring the best points of leaving items, (L,) int64, home: the best of each image's items."""
        rows, scores = front.rows[leaving], front.best_scores[leaving]
        best = self.scores.scatter_reduce(0, rows, scores, "amax")
        winners = ((scores == best[rows]) & (best[rows] > self.scores[rows])).nonzero().flatten()
        self.points[rows[winners]] = front.best_points[leaving[winners]]
        self.scores = best
        if self._early_stop:
            self.found[rows[front.done[leaving]]] = True
            self._news = True  # for their siblings

    def _precision(self) -> AbstractContextManager[object]:
        """The arithmetic of a look: float32, or bf16 where the user accepts to miss breaks for speed."""
        return torch.autocast(self.images.device.type, dtype=torch.bfloat16) if self._half else nullcontext()

    def _confirm(self, search: Search[State], front: Front) -> None:
        """Before anything is dropped: what bf16 takes for a success has to be one in float32."""
        if not self._half or not bool(front.done.any()):
            return
        index = front.done.nonzero().flatten()
        claimed = front.pick(index)
        claimed.points = claimed.best_points
        scores, really = search.judge(claimed, self._logits(claimed))
        front.done[index] = really
        # a point that failed must not outshine the next one: bf16 and float32 scores do not compare
        front.best_scores[index] = torch.where(really, scores, -torch.inf)

    def _see(self, search: Search[State], front: Front) -> Seen:
        loss = search.loss(front)
        if loss is None:
            return Seen(logits=self._logits(front), losses=self._none, gradient=self._none)
        looks = [self.classifier.gradient(front.points, loss, front.rows) for _ in range(self._draws)]
        if self._draws == 1:
            logits, losses, gradient = looks[0]
        else:
            logits, losses, gradient = (torch.stack(part).mean(dim=0) for part in zip(*looks, strict=True))
        return Seen(logits=logits, losses=losses, gradient=gradient)

    def _logits(self, front: Front) -> Tensor:
        looks = [self.classifier(front.points, front.rows) for _ in range(self._draws)]
        return looks[0] if self._draws == 1 else torch.stack(looks).mean(dim=0)


def default_batch_size(images: Tensor) -> int:
    """A batch size that keeps the working set about the same for every image size, (N, C, H, W)."""
    pixels = max(1, images[0].numel() if len(images) else 1)
    return max(2, min(256, PIXELS_AT_A_TIME // pixels))


def _draw_names(search: Search[State], items: Items) -> list[str]:
    restarts = items.restarts.tolist()
    targets = restarts if items.targets is None else items.targets.tolist()
    if items.targets is None:
        return [f"{search.name}/{restart}" for restart in restarts]
    return [f"{search.name}/{restart}/{target}" for restart, target in zip(restarts, targets, strict=True)]
