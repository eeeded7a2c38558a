"""The papers' arithmetic and nothing else: what an attack cannot do without, beside its passes.

No verdict, no random stream for each image, no work items, no count, no guard on the model: one batch whose
images keep step. An attack that is measured beside it can save no more than what lies between the two. Linf
only, and the cross-entropy.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.job import AttackFunction, BenchmarkJob
from robustbench_local.attacks.apgd.lp_search import MIN_RISE_SHARE, MOMENTUM, compute_checkpoint_spans
from robustbench_local.attacks.core.losses import compute_margin
from robustbench_local.attacks.square.windows import compute_window_sides
from robustbench_local.threats.lp_ball import compute_bounds, merge_rows, reshape_for_broadcast
from robustbench_local.threats.threat_model import ThreatModel

ARITHMETIC_NAME = "arithmetic alone"
"""Who, in the tables."""


def run_pgd(job: BenchmarkJob) -> Tensor:
    """Madry et al. 2018: step, clamp; the last point is looked at, as a verdict needs it."""
    low, high, points = _draw_start(job)
    for _ in range(job.steps):
        _, gradient = _compute_gradient(job, points)
        moved = torch.add(points, gradient.sign_(), alpha=job.step_size, out=gradient)
        points = torch.clamp(moved, low, high, out=moved)
    _compute_logits(job, points)
    return points


def run_apgd(job: BenchmarkJob) -> Tensor:
    """Croce & Hein 2020, algorithm 1; the point of the highest loss."""
    low, high, points = _draw_start(job)
    before, top, uphill = points, points.clone(), torch.zeros_like(points)
    size = points.new_full((len(points), 1, 1, 1), 2 * job.eps)
    highest = points.new_full((len(points),), -torch.inf)
    last, rises, checked, halved = -highest, torch.zeros_like(highest), highest, highest < 0
    for age, span in enumerate(compute_checkpoint_spans(job.steps).tolist()[:-1]):
        losses, gradient = _compute_gradient(job, points)
        direction = gradient.sign_()
        higher = losses > highest
        merge_rows(higher, points, top, out=top)
        merge_rows(higher, direction, uphill, out=uphill)
        highest, rises, last = torch.maximum(highest, losses), rises + (losses > last), losses
        if span:
            halved = (rises <= MIN_RISE_SHARE * span) | (halved.logical_not() & (checked >= highest))
            size = torch.where(reshape_for_broadcast(halved, size), size / 2, size)
            points, direction = merge_rows(halved, top, points), merge_rows(halved, uphill, direction)
            rises, checked = torch.zeros_like(rises), highest
        moved = torch.addcmul(points, direction, size, out=direction).clamp_(low, high)
        if age:
            moved.mul_(MOMENTUM).add_(points, alpha=2 * (1 - MOMENTUM)).sub_(before, alpha=1 - MOMENTUM)
            torch.clamp(moved, low, high, out=moved)
        before, points = points, moved
    return merge_rows(_compute_losses(job, _compute_logits(job, points)) > highest, points, top)


@torch.no_grad()
def run_square(job: BenchmarkJob) -> Tensor:
    """Andriushchenko et al. 2020, algorithms 1 and 2: an image leaves with its first success."""
    count, channels, height, width = job.images.shape
    draws = torch.Generator(job.images.device).manual_seed(job.seed)
    found, rows = job.images.clone(), torch.arange(count, device=job.images.device)
    originals, labels = job.images.flatten(1), job.labels
    stripes = _draw_uniform(draws, job.images, count, channels, 1, width).sub_(0.5).sign_().mul_(job.eps)
    points = (job.images + stripes).clamp_(0, 1).flatten(1)
    best = compute_margin(job.verdict_network(points.view(-1, channels, height, width)), labels)
    for side in compute_window_sides(job.steps - 1, 0.8, height, width):
        standing = best <= 0
        if not bool(standing.all()):
            found[rows[~standing]] = points[~standing].view(-1, channels, height, width)
            rows, originals, labels, points, best = (
                part[standing] for part in (rows, originals, labels, points, best)
            )
            if len(rows) == 0:
                return found
        numbers = _draw_uniform(draws, points, len(rows), 2 + channels)
        down = (numbers[:, 0] * (height - side + 1)).long()
        across = (numbers[:, 1] * (width - side + 1)).long()
        where = (down * width + across)[:, None] + _compute_window_indices(channels, height, width, side).to(
            rows.device
        )
        colours = numbers[:, 2:].sub_(0.5).sign_().mul_(job.eps).repeat_interleave(side * side, dim=1)
        old, new = points.gather(1, where), originals.gather(1, where).add_(colours).clamp_(0, 1)
        scores = compute_margin(
            job.verdict_network(points.scatter_(1, where, new).view(-1, channels, height, width)), labels
        )
        better = scores > best
        points.scatter_(1, where, torch.where(better[:, None], new, old))
        best = torch.where(better, scores, best)
    found[rows] = points.view(-1, channels, height, width)
    return found


METHODS: dict[str, AttackFunction] = {"pgd": run_pgd, "apgd": run_apgd, "square": run_square}
"""By the names of ``rows``."""


def _draw_start(job: BenchmarkJob) -> tuple[Tensor, Tensor, Tensor]:
    """Bounds of the pixels, and a random start between them."""
    low, high = compute_bounds(job.images, ThreatModel(norm="Linf", eps=job.eps))
    noise = _draw_uniform(torch.Generator(low.device).manual_seed(job.seed), low, *low.shape)
    return low, high, torch.clamp(noise.mul_(2 * job.eps).sub_(job.eps).add_(job.images), low, high)


def _draw_uniform(draws: torch.Generator, like: Tensor, *shape: int) -> Tensor:
    return torch.rand(shape, generator=draws, device=like.device)


def _compute_gradient(job: BenchmarkJob, points: Tensor) -> tuple[Tensor, Tensor]:
    """Losses and their gradient; a forward and a backward pass."""
    leaf = points.detach().requires_grad_()
    losses = _compute_losses(job, job.verdict_network(leaf))
    (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    return losses.detach(), gradient


@torch.no_grad()
def _compute_logits(job: BenchmarkJob, points: Tensor) -> Tensor:
    logits: Tensor = job.verdict_network(points)
    return logits


def _compute_losses(job: BenchmarkJob, logits: Tensor) -> Tensor:
    return functional.cross_entropy(logits, job.labels, reduction="none")


def _compute_window_indices(channels: int, height: int, width: int, side: int) -> Tensor:
    """Positions of a window's pixels in an image's memory, from its corner in the first channel."""
    row = torch.arange(side)
    one = (row[:, None] * width + row).flatten()
    return (torch.arange(channels)[:, None] * (height * width) + one).flatten()
