"""Norms, balls and steps: pure functions on batches of perturbations, in pixel units of [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from robustbench_local.errors import ThreatError
from robustbench_local.randomness import DrawName, RandomStream

LINF_SLACK = 1e-6
"""Tolerance for rounding: in fp32, x + eps alone exceeds eps by up to 6e-8."""
RELATIVE_SLACK = 1e-5
"""Relative tolerance for norms that are sums over pixels."""
_L1_STEP_SHARE = 0.01
"""Share of the pixel values that an L1 step changes."""
_MAX_PROJECTION_STEPS = 40
"""Most steps in the search for the threshold of an L1 projection; bisection needs fewer in float32."""
_PROJECTION_TOLERANCE_SHARE = 5e-7
"""Tolerance of an L1 projection, as a share of the radius."""


class LpBall(Protocol):
    """The part of a threat model that these functions use: a norm and a radius."""

    @property
    def norm(self) -> str:
        """``"Linf"``, ``"L2"``, ``"L1"`` or ``"L0"``."""

    @property
    def eps(self) -> float | Tensor:
        """Radius, at least 0: one for the whole batch, or one per image, (N,)."""


@dataclass(frozen=True)
class PerImageBalls:
    """A norm and a radius per image.

    Args:
        norm: ``"Linf"``, ``"L2"``, ``"L1"`` or ``"L0"``.
        eps: Radii, (N,).
    """

    norm: str
    eps: Tensor


def compute_norms(delta: Tensor, norm: str) -> Tensor:
    """Compute the norm of each perturbation.

    Args:
        delta: (N, ...), one perturbation per row; images are (N, C, H, W).
        norm: ``"Linf"``, ``"L2"``, ``"L1"`` or ``"L0"``.

    Returns:
        (N,), in the dtype of ``delta``. Under L0 the number of pixels that are not exactly zero, all channels
        of a pixel together; of vectors, (N, D), the number of entries.

    Raises:
        ThreatError: If the norm is unknown.
    """
    if norm == "L0":
        changed = (delta != 0) if delta.dim() < 3 else (delta != 0).any(dim=1)
        return changed.flatten(1).sum(dim=1).to(delta.dtype)
    flat = delta.flatten(1)
    if norm == "Linf":
        return flat.abs().amax(dim=1)
    if norm not in {"L2", "L1"}:
        raise _build_norm_error(norm)
    size: Tensor = torch.linalg.vector_norm(flat, ord=2 if norm == "L2" else 1, dim=1)
    return size


def project(delta: Tensor, ball: LpBall) -> Tensor:
    """Project to the nearest perturbation inside the ball, in the Euclidean sense.

    Args:
        delta: (N, C, H, W).
        ball: Norm and radius.

    Returns:
        Same shape and dtype; the norm is at most ``ball.eps`` up to rounding (a factor of 1 + 1e-6). Under L0
        exactly: the pixels of the largest Euclidean change stay, the first ones among equals.

    Raises:
        ThreatError: If the norm has no projection.

    Source: Duchi et al. 2008, doi:10.1145/1390156.1390191, eq. 3 (L1 only).
    """
    eps = broadcast_radius(ball, delta)
    if ball.norm == "Linf":
        return torch.clamp(delta, -eps, eps)  # type: ignore[arg-type]  # both are numbers, or both tensors
    if ball.norm == "L2":
        size = reshape_for_broadcast(compute_norms(delta, "L2"), delta)
        # rows inside the ball are unchanged bit for bit, because their factor is exactly 1
        return delta * torch.where(size > eps, eps / size.clamp_min(torch.finfo(delta.dtype).tiny), 1.0)
    if ball.norm == "L1":
        return _project_to_l1(delta, torch.full_like(delta, torch.inf), eps)
    if ball.norm == "L0":
        return delta * select_largest_pixels(_sum_squares(delta), ball.eps)
    raise _build_norm_error(ball.norm)


def project_to_box(candidate: Tensor, originals: Tensor, ball: LpBall, masks: Tensor | None = None) -> Tensor:
    """Project the candidate into the ball around the *original* images and into [0, 1].

    Args:
        candidate: (N, C, H, W).
        originals: Same shape, inside [0, 1].
        ball: Norm and radius.
        masks: (N, 1, H, W) boolean; outside them the original's bits are returned.

    Returns:
        Same shape: inside [0, 1] exactly, and inside the ball up to 1e-7 (Linf) or a factor of 1 + 1e-5
        (L2, L1), exactly under L0. Linf, L1 and L0 give the nearest such image. L2 projects to the ball and
        then to the box; the result is still in the ball because the original is in the box.

    Source: Croce & Hein 2021, arXiv:2103.01208, proposition 2.1 (L1 only).
    """
    if ball.norm == "Linf":
        eps = broadcast_radius(ball, candidate)
        inside = torch.clamp(candidate, originals - eps, originals + eps)
    elif ball.norm == "L0":
        return _project_to_pixels(candidate, originals, ball, masks)
    else:
        delta = candidate - originals if masks is None else (candidate - originals) * masks
        if ball.norm == "L1":
            signs = delta.sign()
            caps = signs.clamp_min(0).addcmul_(signs, originals, value=-1)
            inside = originals + _project_to_l1(delta, caps, broadcast_radius(ball, delta))
        else:
            inside = originals + project(delta, ball)
        # rounding of the sum can leave a small ball; the next float towards the original is inside
        outside = compute_norms(inside - originals, ball.norm) > ball.eps * (1 + 5e-6)
        inside = merge_rows(outside, torch.nextafter(inside, originals), inside)
    boxed = inside.clamp(0.0, 1.0)
    return boxed if masks is None else torch.where(masks, boxed, originals)


def compute_bounds(originals: Tensor, ball: LpBall, masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the lowest and highest pixel values in an Linf ball and the box.

    Args:
        originals: (N, C, H, W) in [0, 1].
        ball: Radius; the norm is Linf.
        masks: (N, 1, H, W) boolean; outside them both bounds are the original.

    Returns:
        Two tensors shaped like ``originals``; clamping to them projects onto the intersection.
    """
    eps = broadcast_radius(ball, originals)
    low, high = (originals - eps).clamp_min(0.0), (originals + eps).clamp_max(1.0)
    if masks is None:
        return low, high
    return torch.where(masks, low, originals), torch.where(masks, high, originals)


def sample_random_start(
    stream: RandomStream,
    shape: tuple[int, ...],
    ball: LpBall,
    *,
    draw: DrawName | Sequence[DrawName],
    device: torch.device | str,
    masks: Tensor | None = None,
) -> Tensor:
    """Sample perturbations uniformly from the ball, not yet projected to the box.

    Under L0, which bounds no size, random pixels get random values in [-1, 1].

    Args:
        stream: The images' random numbers.
        shape: (C, H, W) of one image.
        ball: Norm and radius.
        draw: Name of the draw, such as the restart; one for all images or one per image.
        device: Device of the result.
        masks: (N, 1, H, W) boolean; the draw is then uniform in the ball over the pixels inside.

    Returns:
        (N, C, H, W), zero outside the masks.

    Raises:
        ThreatError: If the norm is unknown.

    Source: Barthe et al. 2005, doi:10.1214/009117904000000874, theorem 1 (L2 and L1).
    """
    uniform = stream.sample_uniform(shape, draw=draw, device=device, low=-1.0)
    if ball.norm == "Linf":
        delta = uniform * broadcast_radius(ball, uniform)
        return delta if masks is None else delta * masks
    if ball.norm == "L0":
        ranks = stream.sample_uniform(shape[1:], draw=_name_radius_draws(draw), device=device)
        ranks = ranks if masks is None else torch.where(masks[:, 0], ranks + 1.0, -1.0)
        delta = uniform * select_largest_pixels(ranks[:, None], ball.eps)
        return delta if masks is None else delta * masks
    if ball.norm == "L2":
        direction = stream.sample_normal(shape, draw=draw, device=device)
    elif ball.norm == "L1":  # a Laplace variable, whose density depends on the L1 norm
        direction = -uniform.sign() * torch.log1p(-uniform.abs().clamp_max(1 - 2.0**-24))
    else:
        raise _build_norm_error(ball.norm)
    if masks is not None:
        direction = direction * masks
    ones = torch.ones_like(direction) if masks is None else masks.expand_as(direction)
    dimension = ones.flatten(1).sum(dim=1).clamp_min(1.0)
    # the share of the ball within radius r is r**dimension, which gives the radius of a uniform point
    share = stream.sample_uniform((), draw=_name_radius_draws(draw), device=device) ** (1.0 / dimension)
    size = compute_norms(direction, ball.norm)
    return (
        direction
        * reshape_for_broadcast(share / size.clamp_min(1e-30), direction)
        * broadcast_radius(ball, direction)
    )


def compute_steepest_step(gradient: Tensor, norm: str) -> Tensor:
    """Compute the step of unit norm along which a loss rises fastest (under L1 approximately).

    Args:
        gradient: (N, C, H, W).
        norm: Norm of the step.

    Returns:
        Same shape: the sign for Linf; the normalized gradient for L2, where a zero row gives a zero step; for
        L1 the signs of the largest hundredth of the entries, with equal weights. NaN entries give no step;
        under L2 and L1 neither do infinite ones.

    Raises:
        ThreatError: If the norm is unknown.

    Source: Madry et al. 2018, arXiv:1706.06083, section 2.1; Goodfellow et al. 2015, arXiv:1412.6572;
    Tramer & Boneh 2019, arXiv:1904.13000, appendix B (L1).
    """
    if norm == "Linf":
        return gradient.sign()
    safe = torch.where(torch.isfinite(gradient), gradient, 0.0)
    if norm == "L1":
        count = max(1, round(_L1_STEP_SHARE * safe[0].numel())) if len(safe) else 1
        largest = safe.flatten(1).abs().topk(count, dim=1).values[:, -1]
        chosen = safe.sign() * (safe.abs() >= reshape_for_broadcast(largest, safe))
        return chosen / reshape_for_broadcast(compute_norms(chosen, "L1"), chosen).clamp_min(1.0)
    if norm != "L2":
        raise _build_norm_error(norm)
    # dividing by the largest entry first prevents the squares of tiny gradients from underflowing
    peak = reshape_for_broadcast(compute_norms(safe, "Linf"), safe)
    scaled = safe / torch.where(peak > 0, peak, 1.0)
    return scaled / reshape_for_broadcast(compute_norms(scaled, "L2"), scaled).clamp_min(1.0)


def select_largest_pixels(weights: Tensor, count: float | Tensor) -> Tensor:
    """Mark the pixels of the largest weights.

    Args:
        weights: (N, 1, H, W).
        count: Number of pixels, at least 0, for all images or for each, (N,); fractions are cut off.

    Returns:
        Boolean, same shape: ``count`` pixels of each image, the first ones among equals, so that no other
        image of the batch matters.
    """
    flat = weights.flatten(1)
    order = flat.argsort(dim=1, descending=True, stable=True)
    ranks = torch.empty_like(order)
    ranks.scatter_(1, order, torch.arange(flat.shape[1], device=flat.device).expand_as(order))
    limit = count[:, None] if isinstance(count, Tensor) else count
    return (ranks + 1 <= limit).view_as(weights)


def compute_tolerated_radius(norm: str, eps: float) -> float:
    """Return the radius that a candidate is measured against: with slack for rounding, under L0 with none."""
    if norm == "L0":
        return eps
    return eps + LINF_SLACK if norm == "Linf" else eps * (1 + RELATIVE_SLACK)


def reshape_for_broadcast(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (N,) values to broadcast over the rows of ``like``."""
    return values.view(-1, *[1] * (like.dim() - 1))


def merge_rows(rows: Tensor, ours: Tensor, theirs: Tensor, out: Tensor | None = None) -> Tensor:
    """Take some rows from one batch and the others from another, in a quarter of the time of ``torch.where``.

    Args:
        rows: (N,) boolean: the rows that are taken from ``ours``.
        ours: (N, ...), finite.
        theirs: Same shape, finite.
        out: Tensor for the result; it may be one of the two.

    Returns:
        Same shape; every row is unchanged bit for bit, because weights of 0 and 1 are exact.
    """
    return torch.lerp(theirs, ours, reshape_for_broadcast(rows.to(ours.dtype), ours), out=out)


def broadcast_radius(ball: LpBall, like: Tensor) -> float | Tensor:
    """Return the ball's radius, or the images' radii shaped to broadcast over the rows of ``like``."""
    return reshape_for_broadcast(ball.eps.to(like.dtype), like) if isinstance(ball.eps, Tensor) else ball.eps


def _sum_squares(delta: Tensor) -> Tensor:
    """Return the squared Euclidean length of each pixel's change, (N, 1, H, W)."""
    return delta.square().sum(dim=1, keepdim=True)


def _project_to_pixels(
    candidate: Tensor, originals: Tensor, ball: LpBall, masks: Tensor | None = None
) -> Tensor:
    """Project into the box, and keep the pixels whose reset would lead farthest from the candidate."""
    boxed = candidate.clamp(0.0, 1.0)
    saved = _sum_squares(candidate - originals) - _sum_squares(candidate - boxed)
    chosen = select_largest_pixels(saved if masks is None else saved * masks, ball.eps)
    return torch.where(chosen if masks is None else chosen & masks, boxed, originals)


def _project_to_l1(delta: Tensor, entry_caps: Tensor, eps: float | Tensor) -> Tensor:
    """Shrink each entry of ``delta`` by one amount per row, and cap it at its entry of ``entry_caps``.

    The amount is the smallest that brings the row's L1 norm to ``eps``. The norm is piecewise linear and
    decreasing in it, so Newton's method needs only a few steps. If a step would leave the interval known to
    contain the amount, the interval is bisected. Nothing is sorted.
    """
    size, caps = delta.abs().flatten(1), entry_caps.flatten(1)
    target_norm = eps.flatten(1) if isinstance(eps, Tensor) else eps
    low, high = torch.zeros_like(size[:, :1]), size.amax(dim=1, keepdim=True)
    amount = low
    # two reused buffers: allocating new ones in each step would take longer than the arithmetic
    rest, shrunk = torch.empty_like(size), torch.empty_like(size)
    for _ in range(_MAX_PROJECTION_STEPS):
        torch.sub(size, amount, out=rest)
        torch.minimum(torch.clamp_min(rest, 0, out=shrunk), caps, out=shrunk)
        excess = shrunk.sum(dim=1, keepdim=True) - target_norm
        has_converged = excess.abs() <= _PROJECTION_TOLERANCE_SHARE * target_norm
        low = torch.where(has_converged | (excess > 0), amount, low)
        high = torch.where(has_converged | (excess <= 0), amount, high)
        if delta.device.type == "cpu" and bool((low >= high).all()):
            break
        capped = rest.sub_(caps).sign_().clamp_min_(0)
        falling = shrunk.sign_().sub_(capped).clamp_min_(0).sum(dim=1, keepdim=True)
        newton = amount + excess / falling.clamp_min(1)
        amount = torch.where((newton > low) & (newton < high), newton, (low + high) / 2)
    torch.minimum(torch.sub(size, high, out=rest).clamp_min_(0), caps, out=shrunk)
    return shrunk.view_as(delta).mul_(delta.sign())


def _name_radius_draws(draw: DrawName | Sequence[DrawName]) -> DrawName | list[DrawName]:
    """Return the name of the draw for the radius of a random start."""
    return f"{draw}/radius" if isinstance(draw, str | int) else [f"{name}/radius" for name in draw]


def _build_norm_error(norm: str) -> ThreatError:
    return ThreatError(f"no geometry for norm {norm!r}", remedy="use Linf, L2, L1 or L0")
