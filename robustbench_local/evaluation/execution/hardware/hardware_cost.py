"""What a plan would cost on named hardware: an extrapolation from the CPU time expected here.

A pass takes a certain share of the peak throughput of the core that it was measured on. Which share of the
peak of an accelerator the same network reaches is not known before it runs there: large networks in large
batches about the same one, small ones a tenth of it or less, because the accelerator waits for its next task.
So the range is wide, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.execution.batch_size import use_threads
from robustbench_local.evaluation.execution.cost_range import CostRange
from robustbench_local.evaluation.execution.hardware.hardware_card import HardwareCard
from robustbench_local.evaluation.execution.pass_timer import time_pass

REACHED_SHARE = CostRange(low=0.1, value=0.35, high=1.0)
"""Share of its peak that an accelerator reaches, over the share that a core of this machine reaches."""
_MATRIX_SIDE, _PRODUCTS = 512, 8
_GIGA, _TERA = 1e9, 1e12
_SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, kw_only=True)
class HardwareCost:
    """The extrapolated cost of a plan on one card."""

    card: HardwareCard
    """The card."""
    seconds: CostRange
    """Seconds on one such card."""
    core_gflops: float
    """Throughput of a core of this machine in matrix products, in 10^9 operations a second."""

    @property
    def peak_factor(self) -> float:
        """Peak throughput of the card over that of a core of this machine."""
        return self.card.fp32_tflops * _TERA / (self.core_gflops * _GIGA)

    @property
    def price(self) -> CostRange | None:
        """Price of so many hours; None without a price of an hour."""
        if self.card.price_per_hour is None:
            return None
        return self.seconds.scale_by(self.card.price_per_hour / _SECONDS_PER_HOUR)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        price = self.price
        return {
            "name": self.card.name,
            "title": self.card.title,
            "hours": _round_range(self.seconds.scale_by(1 / _SECONDS_PER_HOUR)),
            "price": price and _round_range(price),
            "price_per_hour": self.card.price_per_hour,
            "fp32_tflops": self.card.fp32_tflops,
            "bf16_tflops": self.card.bf16_tflops,
            "source": self.card.source,
            "core_gflops": round(self.core_gflops, 1),
            "peak_factor": round(self.peak_factor, 1),
            "reached_share": REACHED_SHARE.to_json(),
        }


def extrapolate_costs(
    cpu_seconds: CostRange, cards: Sequence[HardwareCard], *, device: str, core_gflops: float | None = None
) -> tuple[HardwareCost, ...]:
    """Extrapolate the cost of a plan to named hardware.

    Args:
        cpu_seconds: Expected seconds of a core of this machine.
        cards: The cards.
        device: Type of the device that the seconds are those of.
        core_gflops: Throughput of a core; None: measured now.

    Raises:
        ConfigError: If the seconds are not those of a CPU.
    """
    if not cards:
        return ()
    if device != "cpu":
        remedy = "plan with --device cpu"
        raise ConfigError(
            f"only a plan for a CPU is extrapolated, got {device}", where="--hardware", remedy=remedy
        )
    throughput = measure_core_gflops() if core_gflops is None else core_gflops
    return tuple(
        HardwareCost(
            card=card, seconds=_extrapolate_seconds(cpu_seconds, card, throughput), core_gflops=throughput
        )
        for card in cards
    )


def measure_core_gflops() -> float:
    """Measure the throughput of a core of this machine in single precision, in 10^9 operations a second."""
    left, right = torch.ones(_MATRIX_SIDE, _MATRIX_SIDE), torch.ones(_MATRIX_SIDE, _MATRIX_SIDE)
    with use_threads(1):
        seconds = min(time_pass(lambda: left @ right, torch.device("cpu")) for _ in range(_PRODUCTS))
    return float(2 * _MATRIX_SIDE**3 / max(seconds, 1e-9) / _GIGA)


def _extrapolate_seconds(cpu_seconds: CostRange, card: HardwareCard, core_gflops: float) -> CostRange:
    """Return the seconds on a card; the uncertainties of plan and card are independent factors."""
    peak = card.fp32_tflops * _TERA / (core_gflops * _GIGA)
    value = cpu_seconds.value / (peak * REACHED_SHARE.value)
    slower = _combine_factors(cpu_seconds.high, cpu_seconds.value, REACHED_SHARE.value / REACHED_SHARE.low)
    faster = _combine_factors(cpu_seconds.value, cpu_seconds.low, REACHED_SHARE.high / REACHED_SHARE.value)
    return CostRange(low=value / faster, value=value, high=value * slower)


def _combine_factors(numerator: float, denominator: float, factor: float) -> float:
    """Return the factor of two independent ones, the first of them a quotient."""
    quotient = numerator / denominator if denominator > 0 else 1.0
    return math.exp(math.hypot(math.log(max(quotient, 1.0)), math.log(factor)))


def _round_range(cost: CostRange) -> dict[str, float]:
    return {name: float(f"{value:.3g}") for name, value in vars(cost).items()}
