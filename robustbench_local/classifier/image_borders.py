"""Gradients at pixels of exactly 0 or 1, where a clamp in the forward pass makes them vanish.

In torch the gradient of ``x.clamp(0, 1)`` is 0 at exactly 0 and 1, the value of most pixels of drawings and
many of photographs; that of ``minimum`` and ``maximum`` is a half. A millionth further inside, it is correct.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from robustbench_local.bpda import apply_straight_through
from robustbench_local.classifier.foreign_errors import is_out_of_memory
from robustbench_local.classifier.gradient_repair import keep_backward_finite, remove_nonfinite
from robustbench_local.classifier.input_gradient import compute_input_gradient, uses_reentrant_checkpoints
from robustbench_local.classifier.state_guard import RandomStates

MASKED_BORDERS_NOTE = (
    "its gradients vanish or break off at pixels of exactly 0 or 1, as those of a model do that clamps its "
    "input to [0, 1]: they are taken just inside; verdicts are reached on the exact images"
)
"""Note for a reader of such a model's results."""
_INSET_BY_DTYPE = {torch.float16: 2e-3, torch.bfloat16: 2**-6}
DEFAULT_INSET = 1e-6
"""Distance inside the box at which gradients are taken, in float32: 16 times the spacing of floats below
1."""
MIN_JUMP_SHARE = 0.25
"""Minimum relative change of a single pixel's gradient, from the border to just inside, that counts as a
jump."""
MIN_BROKEN_SHARE = 0.5
"""Share of the border's pixels that have to show a jump."""
_MAX_OTHER_JUMPS_SHARE = 0.1
"""Maximum share of the other pixels that may show a jump; if more do, the borders are not the cause."""
_MIN_GRADIENT_SHARE = 1e-3
"""A gradient below this share of the others' mean is ignored."""
_HALF_TOLERANCE = 1e-3
"""Tolerance for a gradient of one half."""
_PROBE_BLOCKS = ((4, 1), (6, 3))
"""Distance and side of the black and white blocks of the probes: single pixels for networks that take the
image as it is, blocks for those that resize it first."""


_MAX_PROBES = 3
"""Maximum number of attempts while the result is inconclusive."""


def find_inset(dtype: torch.dtype) -> float:
    """Return the distance inside the box for gradients, in pixel units; larger in coarser arithmetic."""
    return _INSET_BY_DTYPE.get(dtype, DEFAULT_INSET)


def move_inside(images: Tensor, inset: float) -> Tensor:
    """Move pixels away from the border by ``inset``; gradients pass back unchanged."""
    return apply_straight_through(lambda pixels: pixels.clamp(inset, 1 - inset), images)


def build_probes(shape: torch.Size, device: torch.device) -> Tensor:
    """Build gray noise with black and white pixels, and with black and white blocks: (4, C, H, W), constant.

    Args:
        shape: (C, H, W).
        device: Device of the result.
    """
    generator = torch.Generator().manual_seed(0)
    probes = []
    for period, largest in _PROBE_BLOCKS:
        side = 1 if min(shape[-2:]) < 2 * period else largest
        gray = 0.25 + 0.5 * torch.rand(tuple(shape), generator=generator)
        down, across = (torch.arange(length) for length in shape[-2:])
        block = (down % period < side)[:, None] & (across % period < side)
        number = (down // period)[:, None] + across // period
        probes += [torch.where(block, ((number + color) % 2).float(), gray) for color in (0, 1)]
    return torch.stack(probes).to(device)


def has_masked_borders(
    slope_at: Callable[[Tensor], Tensor], points: Tensor, inset: float, *, single: int = 0
) -> bool | None:
    """Check whether gradients vanish at pixels of exactly 0 or 1.

    Args:
        slope_at: Images to a gradient with respect to their pixels, finite, (N, C, H, W).
        points: Images, (N, C, H, W): `build_probes`, or any with pixels at the border.
        inset: Distance inside the box for the comparison.
        single: Number of first images in which each border pixel stands alone among others. There a jump at
            one border is enough. In others it has to be at both, or the gradient has to vanish: that of a
            network without biases jumps where a pixel's whole neighborhood is black.

    Returns:
        None if inconclusive, because there is no gradient to compare or no pixel at the border.
    """
    at_border, inside = slope_at(points), slope_at(points.clamp(inset, 1 - inset))
    edges = [points <= 0, points >= 1]
    free = ~(edges[0] | edges[1])
    result = None
    for rows in (slice(0, single), slice(single, None)):
        usual = inside[rows].abs()[free[rows]]
        if len(points[rows]) == 0:
            continue
        least = _MIN_GRADIENT_SHARE * (usual.mean() if len(usual) else inside[rows].abs().mean())
        outer, inner = at_border[rows], inside[rows]
        jumps = (outer - inner).abs() > MIN_JUMP_SHARE * inner.abs()
        fades = (outer == 0) | ((outer - inner / 2).abs() <= _HALF_TOLERANCE * inner.abs())
        clear = inner.abs() > least
        sides = [clear & edge[rows] for edge in edges]
        sides = [side for side in sides if bool(side.any())]
        if not sides:
            continue
        result = False
        jumping = [_compute_share(jumps, side) > MIN_BROKEN_SHARE for side in sides]
        broken_off = any(jumping) if rows.stop is not None else len(sides) == 2 and all(jumping)
        steady = _compute_share(jumps, clear & free[rows]) <= _MAX_OTHER_JUMPS_SHARE
        if (broken_off and steady) or any(_compute_share(fades, side) > MIN_BROKEN_SHARE for side in sides):
            return True
    return result


class BorderProbe:
    """Detects, at a classifier's first gradients, whether they vanish at pixels of exactly 0 or 1.

    It uses images of its own, always the same, so that the result depends on the model alone; it uses the
    user's images where its own have no gradient.

    Args:
        dtype: Data type of the model's computation.

    Attributes:
        masked: Whether gradients vanish there.
        inset: Distance inside [0, 1] at which gradients are then taken, in pixel units.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.masked, self.inset = False, find_inset(dtype)
        self._probes_left = _MAX_PROBES

    @property
    def is_decided(self) -> bool:
        """Whether the result is known."""
        return self._probes_left == 0

    def set_result(self, *, masked: bool) -> None:
        """Set a result that is known from elsewhere; no more probes are made."""
        self.masked, self._probes_left = masked, 0

    def detect_masking(self, logits_of: Callable[[Tensor], Tensor], images: Tensor) -> bool:
        """Return whether this call detected that gradients vanish at the borders.

        Args:
            logits_of: The model, (N, C, H, W) to (N, K).
            images: Images of the current query, (N, C, H, W), on the model's device.
        """
        if self.is_decided or len(images) == 0:
            return False
        first, self._probes_left = self._probes_left == _MAX_PROBES, self._probes_left - 1
        randomness = RandomStates.from_process()
        try:
            self.masked = self._probe_borders(logits_of, images.detach(), first) or False
        except Exception as error:
            if is_out_of_memory(error):
                self._probes_left += 1
                raise
            self._probes_left = 0  # it accepts only the user's images
        finally:
            randomness.restore_states()
        return self.masked

    def compute_logits(self, logits_of: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Return logits of images; where gradients vanish at the borders, with the gradients just inside.

        Args:
            logits_of: As in `detect_masking`.
            images: (N, C, H, W) in [0, 1].
        """
        if not (self.masked and torch.is_grad_enabled() and images.requires_grad):
            return logits_of(images)
        with torch.no_grad():
            exact = logits_of(images.detach())
        inside = logits_of(move_inside(images, self.inset))
        return apply_straight_through(lambda _: exact, inside)

    @contextmanager
    def use_exact_gradients(self) -> Iterator[None]:
        """Take gradients at the images themselves, as the model gives them, while the context is open."""
        before, self.masked = self.masked, False
        try:
            yield
        finally:
            self.masked = before

    def _probe_borders(
        self, logits_of: Callable[[Tensor], Tensor], images: Tensor, first: bool
    ) -> bool | None:
        def slope_at(points: Tensor) -> Tensor:
            return self._compute_gradient(logits_of, points)

        result = None
        probes = build_probes(images.shape[1:], images.device).to(images.dtype)
        if first:
            result = has_masked_borders(slope_at, probes, self.inset, single=len(probes) // 2)
        if result is None:
            result = has_masked_borders(slope_at, images[: len(probes)], self.inset)
        if result is not None:
            self._probes_left = 0
        return result

    def _compute_gradient(self, logits_of: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
        """Return the finite gradient of a fixed mixture of the logits."""
        with torch.enable_grad():
            leaf = points.detach().requires_grad_()
            logits = logits_of(leaf)
            mixture = (logits * torch.arange(logits.shape[1]).cos().to(logits)).sum(dim=1)
            if not mixture.requires_grad:
                return torch.zeros_like(points)
            keep_backward_finite(mixture)
            slope = compute_input_gradient(mixture, leaf, full_backward=uses_reentrant_checkpoints(mixture))
        return torch.zeros_like(points) if slope is None else remove_nonfinite(slope)


def _compute_share(marks: Tensor, among: Tensor) -> float:
    chosen = marks[among]
    return float(chosen.float().mean()) if len(chosen) else 0.0
