"""Values that leave torch, as NumPy arrays or Python numbers, and come back."""

from __future__ import annotations

from torch import Tensor

_PERMUTATIONS = {
    2: ((0, 1), (1, 0)),
    3: ((0, 1, 2), (1, 2, 0), (2, 0, 1)),
    4: ((0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 1, 2)),
}
"""Orders of axes that image code uses: as they are, channels last, channels first."""
_COMMON_SCALES = (1.0, 255.0, 1 / 255)
_SCALE_TOLERANCE = 0.05
"""Relative difference up to which a fitted scale counts as one of the common ones."""


class ArrayBridge:
    """Tensors whose values have left torch, in order; those that come back are matched with them."""

    def __init__(self) -> None:
        self._departed: list[Tensor] = []

    def add_source(self, tensor: Tensor) -> None:
        """Note a tensor that carries a gradient and leaves."""
        self._departed.append(tensor)

    def match_source(self, tensor: Tensor) -> Tensor | None:
        """Return what a tensor that comes back derives its gradient from; None if nothing fits.

        Args:
            tensor: Made from values outside of torch, any type.

        Returns:
            In the tensor's shape and scale: the first departed tensor of its size that nothing has come back
            for, its axes in the best order, times the scale that fits best.
        """
        for index, source in enumerate(self._departed):
            if source.numel() != tensor.numel() or source.numel() < 2:
                continue
            candidates = [
                source.permute(order)
                for order in _PERMUTATIONS.get(source.ndim, ((0,),))
                if len(order) == source.ndim and source.permute(order).shape == tensor.shape
            ]
            if not candidates:
                candidates = [source.reshape(tensor.shape)]
            fits = [_fit_scale(tensor, candidate) for candidate in candidates]
            error, scale = min(fits)
            best = candidates[[fit[0] for fit in fits].index(error)]
            del self._departed[index]
            return best * scale
        return None


def _fit_scale(tensor: Tensor, source: Tensor) -> tuple[float, float]:
    """Return the residual and slope of a straight line from a source's values to a tensor's."""
    target, origin = tensor.detach().double().flatten(), source.detach().double().flatten()
    target, origin = target - target.mean(), origin - origin.mean()
    power = float(origin.square().sum())
    if power == 0:
        return 0.0, 1.0
    scale = float((target * origin).sum()) / power
    residual = float((target - scale * origin).square().sum())
    for common in _COMMON_SCALES:
        if abs(scale / common - 1) < _SCALE_TOLERANCE:
            scale = common
    return residual, scale if scale != 0 else 1.0
