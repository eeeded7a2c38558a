"""What a plan would cost on named hardware, in words."""

from __future__ import annotations

from collections.abc import Sequence

from robustbench_local.cli.plan_table import format_seconds
from robustbench_local.counted_nouns import format_count
from robustbench_local.evaluation.execution.cost_range import CostRange
from robustbench_local.evaluation.execution.hardware.hardware_cost import REACHED_SHARE, HardwareCost
from robustbench_local.evaluation.execution.plan_cost import ExpectedPlanCost
from robustbench_local.reports.formatting.text import EN_DASH

MIN_SHOWN_PRICE = 0.01
"""A price below this one is not shown in figures."""


def list_hardware_lines(expected: ExpectedPlanCost, hardware: Sequence[HardwareCost]) -> list[str]:
    """List the cost of a plan on named hardware, and how it was extrapolated.

    Args:
        expected: The expected cost here.
        hardware: The cost on each card; empty for no lines.
    """
    if not hardware:
        return []
    if not expected.cpu_seconds.value:
        return ["hardware: no time is expected here that could be extrapolated; --pilot-seconds measures one"]
    lines = [_format_cost(cost) for cost in hardware]
    speed = f"{hardware[0].core_gflops:,.0f} GFLOPS"
    shares = (
        f"{REACHED_SHARE.low:g}{EN_DASH}{REACHED_SHARE.high:g} times, expected {REACHED_SHARE.value:g} times"
    )
    lines.append(
        f"extrapolated from CPU time here, not measured: the published peak in fp32 over the {speed} of a "
        f"core here, of which a card is taken to reach {shares} the share that this core reaches; small "
        "networks reach least, since a card waits for them"
    )
    if expected.unknown_cells:
        lines[-1] += f"; without {format_count(expected.unknown_cells, 'cell')} that no pilot measured"
    return lines


def _format_cost(cost: HardwareCost) -> str:
    card, price = cost.card, cost.price
    seconds = "less than a second" if cost.seconds.high < 1 else format_seconds(cost.seconds)
    line = f"on one {card.title}: {seconds}"
    if price is not None:
        line += f", price {_format_price(price)} at {card.price_per_hour:g} an hour"
    line += f"; {card.fp32_tflops:g} TFLOPS ({card.source}), {cost.peak_factor:,.0f} times a core here"
    if card.bf16_tflops is not None:
        line += f"; in bf16 at most {card.bf16_tflops / card.fp32_tflops:.1f} times faster"
    return line


def _format_price(price: CostRange) -> str:
    if price.high < MIN_SHOWN_PRICE:
        return f"less than {MIN_SHOWN_PRICE:g}"
    return f"{price.value:,.2f} ({price.low:,.2f}{EN_DASH}{price.high:,.2f})"
