"""Models whose mistake lies in their training or in the range of their input."""

from __future__ import annotations

from torch import Tensor, nn

from benchmarks.broken_models.case import ModelKind
from benchmarks.broken_models.input_kinds import FunctionLayer
from benchmarks.broken_models.networks import BaseNetwork, PixelNetwork
from benchmarks.broken_models.surgery import preprocess


class ByteRange(nn.Module):
    """Expects pixels of 0 to 255 and is given them: the first layer is as it was, so all units saturate."""

    def __init__(self, network: PixelNetwork) -> None:
        super().__init__()
        self.network, self.num_classes = network, network.num_classes

    def forward(self, images: Tensor) -> Tensor:
        return self.network.network((images - self.network.mean) / self.network.std * 255)


def _normalize_twice(base: BaseNetwork) -> nn.Module:
    network = base.build()
    mean, std = network.mean.clone(), network.std.clone()
    return preprocess(base, FunctionLayer(lambda images: (images - mean) / std))


TRAINED_KINDS = (
    ModelKind(
        name="distilled at T=100",
        build=lambda base: base.build(),
        networks=("signs-distilled",),
        expected="D6c, D17, D18; rescaled losses",
    ),
    ModelKind(
        name="pixels 0 to 255",
        build=lambda base: ByteRange(base.build()).eval(),
        networks=("mnist", "signs"),
        expected="D6c, D18, D19",
        clean_floor=0.4,
    ),
    ModelKind(
        name="normalized twice",
        build=_normalize_twice,
        networks=("signs-at", "gtsrb"),
        expected="nothing in its gradients: a lower clean accuracy (D22)",
        clean_floor=0.0,
    ),
)
"""Kinds of wrong training or input range."""
