"""Named hardware: its cards, the extrapolation, and what the plan says."""

from __future__ import annotations

import math

import pytest

from robustbench_local.cli.hardware_lines import list_hardware_lines
from robustbench_local.cli.run_command import parse_hardware_options
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.execution.cost_range import NO_COST, CostRange
from robustbench_local.evaluation.execution.hardware.hardware_card import _read_shipped, find_hardware
from robustbench_local.evaluation.execution.hardware.hardware_cost import (
    REACHED_SHARE,
    extrapolate_costs,
    measure_core_gflops,
)
from robustbench_local.evaluation.execution.plan_cost import ExpectedPlanCost
from robustbench_local.reports.formatting.text import EN_DASH

HOURS = CostRange(low=3_600.0, value=7_200.0, high=14_400.0)
OWN = "cards: [{name: mine, title: My card, fp32_tflops: 20, price_per_hour: 3, source: measured by me}]"


def expect(cpu_seconds, unknown_cells=0):
    return ExpectedPlanCost(
        cells={}, passes=NO_COST, cpu_seconds=cpu_seconds, seconds=NO_COST, unknown_cells=unknown_cells
    )


def test_shipped_cards_have_a_source_with_its_year_and_no_price():
    cards = _read_shipped()
    assert len(cards) >= 10
    for card in cards:
        assert card.source.rsplit(", ")[1].isdecimal()
        assert card.price_per_hour is None
        assert card.bf16_tflops is None or card.bf16_tflops > card.fp32_tflops


def test_cards_are_named_or_come_from_files(tmp_path):
    path = tmp_path / "cards.yaml"
    path.write_text(OWN)
    assert [card.name for card in find_hardware(["h100", "t4", "h100"])] == ["h100", "t4"]
    (mine,) = find_hardware([str(path)])
    assert (mine.title, mine.price_per_hour) == ("My card", 3)
    assert [card.name for card in find_hardware([str(path), "a100"])] == ["a100"]
    assert find_hardware([str(path), "mine"], 2.5)[0].price_per_hour == 2.5
    path.write_text(OWN.replace("mine", "h100"))
    assert find_hardware([str(path), "h100"])[0].fp32_tflops == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            OWN.replace("fp32_tflops", "fp32_tflop"),
            "unknown key 'cards.0.fp32_tflop'. Did you mean fp32_tflops?",
        ),
        (OWN.replace("20", "0"), "cards.0.fp32_tflops: input should be greater than 0"),
        (OWN.replace("20", ".nan"), "cards.0.fp32_tflops"),
        (OWN.replace("name: mine", "name: ../m"), "cards.0.name"),
        (OWN.replace("My card", '"\\e[2J"'), "printable"),
        (OWN[:-1] + ", " + OWN[8:], "the card 'mine' is there twice"),
        ("cards: []", "cards: list should have at least 1 item"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "cards.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"cards\.yaml: ") as refused:
        find_hardware([str(path)])
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (["h10"], None, True),
            "there is no card 'h10'. Did you mean h100; a file of your own ends with .yaml",
        ),
        ((["h100"], None, False), "--hardware: it shows what a plan would cost. Add --dry-run"),
        (([], 2.0, True), "--price-per-hour: it needs --hardware"),
        ((["h100"], math.nan, True), "--price-per-hour: a price must be a number"),
        ((["absent.yaml"], None, True), "absent.yaml: cannot be read"),
    ],
)
def test_options_that_belong_together(arguments, message):
    entries, price, dry_run = arguments
    with pytest.raises(ConfigError) as refused:
        parse_hardware_options(entries, price, dry_run=dry_run)
    assert message in str(refused.value)
    assert refused.value.exit_code == 2


def test_the_time_on_a_card_is_that_of_a_core_by_their_peaks():
    cards = find_hardware(["h100"], 2.0)
    (cost,) = extrapolate_costs(HOURS, cards, device="cpu", core_gflops=100.0)
    assert cost.peak_factor == pytest.approx(670)
    assert cost.seconds.value == pytest.approx(7_200 / 670 / REACHED_SHARE.value)
    # two independent factors: 2 of the plan, and 3.5 or 1 / 0.35 of the card
    slower = math.exp(math.hypot(math.log(2), math.log(3.5)))
    faster = math.exp(math.hypot(math.log(2), math.log(1 / 0.35)))
    assert cost.seconds.high == pytest.approx(cost.seconds.value * slower)
    assert cost.seconds.low == pytest.approx(cost.seconds.value / faster)
    assert cost.price.value == pytest.approx(cost.seconds.value / 1_800)
    assert cost.to_json()["hours"]["value"] == pytest.approx(cost.seconds.value / 3_600, rel=0.01)
    assert extrapolate_costs(HOURS, find_hardware(["t4"]), device="cpu")[0].to_json()["price"] is None
    with pytest.raises(ConfigError, match=r"only a plan for a CPU is extrapolated, got cuda. Plan with"):
        extrapolate_costs(HOURS, cards, device="cuda")
    assert extrapolate_costs(HOURS, (), device="cuda") == ()
    assert 0.1 < measure_core_gflops() < 10_000


def test_the_lines_say_what_was_extrapolated_from_what():
    costs = extrapolate_costs(
        HOURS.scale_by(10), find_hardware(["h100", "t4"], 2.0), device="cpu", core_gflops=100.0
    )
    first, second, how = list_hardware_lines(expect(HOURS, 2), costs)
    assert first == (
        f"on one NVIDIA H100 SXM: 5 min 07 s (1 min 27 s{EN_DASH}21 min 25 s), "
        f"price 0.17 (0.05{EN_DASH}0.71) at 2 an hour; "
        "67 TFLOPS (NVIDIA H100 data sheet, 2023), 670 times a core here; in bf16 at most 14.8 times faster"
    )
    assert "bf16" not in second
    assert "100 GFLOPS of a core here" in how
    assert f"0.1{EN_DASH}1 times, expected 0.35 times" in how
    assert how.endswith("without 2 cells that no pilot measured")
    tiny = extrapolate_costs(
        HOURS.scale_by(1e-5), find_hardware(["h100"], 2.0), device="cpu", core_gflops=100.0
    )
    assert ": less than a second, price less than 0.01 at" in list_hardware_lines(expect(HOURS), tiny)[0]
    assert "no time is expected" in list_hardware_lines(expect(NO_COST), costs)[0]
    assert list_hardware_lines(expect(HOURS), ()) == []
