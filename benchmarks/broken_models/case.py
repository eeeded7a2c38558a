"""What a case of the study is: a model, images for it, a threat model and what should catch it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from benchmarks.broken_models.networks import BaseNetwork


@dataclass(frozen=True, kw_only=True)
class ModelKind:
    """A way to build a model from a sound network.

    Args:
        name: What is done to the network; unique.
        build: A fresh network underneath to the model: pixels in [0, 1], (N, C, H, W), to scores (N, K).
        networks: Names of the networks it is built on.
        expected: What should catch it: a diagnostic, or the step of an adaptive attack.
        is_sound: Whether its robustness number means what it says.
        images: How many images the study takes; 0: as many as for the network.
        clean_floor: The least clean accuracy on 50 images with which the case still means something.
    """

    name: str
    build: Callable[[BaseNetwork], nn.Module]
    networks: tuple[str, ...]
    expected: str
    is_sound: bool = False
    images: int = 0
    clean_floor: float = 0.4


@dataclass(frozen=True, kw_only=True)
class ModelCase:
    """A model under study.

    Args:
        name: ``KIND on NETWORK``.
        is_sound: Whether its robustness number means what it says.
        kind: The name of its kind.
        build: Makes the model, the same each time; it has ``num_classes``.
        data: The first n images, (N, C, H, W) in [0, 1] on the 8-bit grid, with labels, (N,).
        threat: Norm and radius times 255, such as ``linf-8``.
        expected: What should catch it.
        honest_verdicts: For each of the first images, whether it is robust under the strongest attack made by
            hand; empty: not measured.
        images: How many images the study takes.
        clean_floor: See `ModelKind`.
    """

    name: str
    is_sound: bool
    kind: str
    build: Callable[[], nn.Module]
    data: Callable[[int], tuple[Tensor, Tensor]]
    threat: str
    expected: str
    honest_verdicts: tuple[bool, ...]
    images: int
    clean_floor: float

    @property
    def honest_robust(self) -> float | None:
        """Robust accuracy under the strongest attack made by hand; None: not measured."""
        return self.compute_honest_share(len(self.honest_verdicts))

    def compute_honest_share(self, n: int) -> float | None:
        """The same on the first n images; None if it was not measured on as many."""
        if not 0 < n <= len(self.honest_verdicts):
            return None
        return sum(self.honest_verdicts[:n]) / n

    @property
    def norm(self) -> str:
        """``Linf`` or ``L2``."""
        return {"linf": "Linf", "l2": "L2"}[self.threat.partition("-")[0]]

    @property
    def eps(self) -> float:
        """The radius in pixels of [0, 1]."""
        number = float(self.threat.partition("-")[2])
        return number / 255 if self.norm == "Linf" else number
