"""The papers' arithmetic and nothing else: what an attack cannot do without, beside its passes.

No verdict, no random stream for each image, no work items, no count, no guard on the model: one batch whose
images keep step. An attack that is measured beside it can save no more than what lies between the two. Linf
only, and the cross-entropy.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.job import Job, Run
from robustbench_local.attacks.apgd.lp_search import MOMENTUM, RISES, checkpoint_spans
from robustbench_local.attacks.core.losses import margin
from robustbench_local.attacks.square.windows import window_sides
from robustbench_local.threats.lp_ball import bounds, choose, column
from robustbench_local.threats.threat_model import ThreatModel

NAME = "arithmetic alone"
"""Who, in the tables."""


def pgd(job: Job) -> Tensor:
    """Madry et al. 2018: step, clamp; the last point is looked at, as a verdict needs it."""
    low, high, points = _start(job)
    for _ in range(job.steps):
        _, gradient = _climb(job, points)
        moved = torch.add(points, gradient.sign_(), alpha=job.step_size, out=gradient)
        points = torch.clamp(moved, low, high, out=moved)
    _look(job, points)
    return points


def apgd(job: Job) -> Tensor:
    """Croce & Hein 2020, algorithm 1; the point of the highest loss."""
    low, high, points = _start(job)
    before, top, uphill = points, points.clone(), torch.zeros_like(points)
    size = points.new_full((len(points), 1, 1, 1), 2 * job.eps)
    highest = points.new_full((len(points),), -torch.inf)
    last, rises, checked, halved = -highest, torch.zeros_like(highest), highest, highest < 0
    for age, span in enumerate(checkpoint_spans(job.steps).tolist()[:-1]):
        losses, gradient = _climb(job, points)
        direction = gradient.sign_()
        higher = losses > highest
        choose(higher, points, top, out=top)
        choose(higher, direction, uphill, out=uphill)
        highest, rises, last = torch.maximum(highest, losses), rises + (losses > last), losses
        if span:
            halved = (rises <= RISES * span) | (halved.logical_not() & (checked >= highest))
            size = torch.where(column(halved, size), size / 2, size)
            points, direction = choose(halved, top, points), choose(halved, uphill, direction)
            rises, checked = torch.zeros_like(rises), highest
        moved = torch.addcmul(points, direction, size, out=direction).clamp_(low, high)
        if age:
            moved.mul_(MOMENTUM).add_(points, alpha=2 * (1 - MOMENTUM)).sub_(before, alpha=1 - MOMENTUM)
            torch.clamp(moved, low, high, out=moved)
        before, points = points, moved
    return choose(_losses(job, _look(job, points)) > highest, points, top)


@torch.no_grad()
def square(job: Job) -> Tensor:
    """Andriushchenko et al. 2020, algorithms 1 and 2: an image leaves with its first success."""
    count, channels, height, width = job.images.shape
    draws = torch.Generator(job.images.device).manual_seed(job.seed)
    found, rows = job.images.clone(), torch.arange(count, device=job.images.device)
    originals, labels = job.images.flatten(1), job.labels
    stripes = _drawn(draws, job.images, count, channels, 1, width).sub_(0.5).sign_().mul_(job.eps)
    points = (job.images + stripes).clamp_(0, 1).flatten(1)
    best = margin(job.reader(points.view(-1, channels, height, width)), labels)
    for side in window_sides(job.steps - 1, 0.8, height, width):
        standing = best <= 0
        if not bool(standing.all()):
            found[rows[~standing]] = points[~standing].view(-1, channels, height, width)
            rows, originals, labels, points, best = (
                part[standing] for part in (rows, originals, labels, points, best)
            )
            if len(rows) == 0:
                return found
        numbers = _drawn(draws, points, len(rows), 2 + channels)
        down = (numbers[:, 0] * (height - side + 1)).long()
        across = (numbers[:, 1] * (width - side + 1)).long()
        where = (down * width + across)[:, None] + _window(channels, height, width, side).to(rows.device)
        colours = numbers[:, 2:].sub_(0.5).sign_().mul_(job.eps).repeat_interleave(side * side, dim=1)
        old, new = points.gather(1, where), originals.gather(1, where).add_(colours).clamp_(0, 1)
        scores = margin(job.reader(points.scatter_(1, where, new).view(-1, channels, height, width)), labels)
        better = scores > best
        points.scatter_(1, where, torch.where(better[:, None], new, old))
        best = torch.where(better, scores, best)
    found[rows] = points.view(-1, channels, height, width)
    return found


METHODS: dict[str, Run] = {"pgd": pgd, "apgd": apgd, "square": square}
"""By the names of ``rows``."""


def _start(job: Job) -> tuple[Tensor, Tensor, Tensor]:
    """Bounds of the pixels, and a random start between them."""
    low, high = bounds(job.images, ThreatModel(norm="Linf", eps=job.eps))
    noise = _drawn(torch.Generator(low.device).manual_seed(job.seed), low, *low.shape)
    return low, high, torch.clamp(noise.mul_(2 * job.eps).sub_(job.eps).add_(job.images), low, high)


def _drawn(draws: torch.Generator, like: Tensor, *shape: int) -> Tensor:
    return torch.rand(shape, generator=draws, device=like.device)


def _climb(job: Job, points: Tensor) -> tuple[Tensor, Tensor]:
    """Losses and their gradient; a forward and a backward pass."""
    leaf = points.detach().requires_grad_()
    losses = _losses(job, job.reader(leaf))
    (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    return losses.detach(), gradient


@torch.no_grad()
def _look(job: Job, points: Tensor) -> Tensor:
    logits: Tensor = job.reader(points)
    return logits


def _losses(job: Job, logits: Tensor) -> Tensor:
    return functional.cross_entropy(logits, job.labels, reduction="none")


def _window(channels: int, height: int, width: int, side: int) -> Tensor:
    """Positions of a window's pixels in an image's memory, from its corner in the first channel."""
    row = torch.arange(side)
    one = (row[:, None] * width + row).flatten()
    return (torch.arange(channels)[:, None] * (height * width) + one).flatten()
