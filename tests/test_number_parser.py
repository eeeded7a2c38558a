"""One reading of numbers for eps, steps, radii and limits: what is odd is refused, never another number."""

from __future__ import annotations

from fractions import Fraction

import pytest

from robustbench_local.attacks import make_attack
from robustbench_local.config.cards import expand_card, find_card
from robustbench_local.config.strict_yaml import parse_yaml
from robustbench_local.errors import ConfigError, ThreatError
from robustbench_local.evaluation.grid.schema import GateEntry
from robustbench_local.number_parser import parse_number
from robustbench_local.threats.threat_model import parse_eps

GOOD = [
    ("8/255", 8 / 255),
    (" 8 / 255 ", 8 / 255),
    ("8/\t255", 8 / 255),
    ("0.5/255", float(Fraction(1, 510))),
    (".5/255.", float(Fraction(1, 510))),
    ("8.0/255.0", 8 / 255),
    ("1e-2", 0.01),
    ("1E-2", 0.01),
    ("+0.3", 0.3),
    ("0", 0.0),
    (".3", 0.3),
    ("3.", 3.0),
    ("007", 7.0),
    (8, 8.0),
    (0.25, 0.25),
    (Fraction(8, 255), 8 / 255),
]
ODD = [
    "8/25 5", "8\x208/255", "1 0", "8/0", "8/0.0", "8/-255", "-8/255", "8/+255", "8//255",
    "8/255/1", "/255", "8/", "nan", "inf", "-inf", "infinity", "0x8/255", "8_0/255", "1_0",
    "\u0668/255", "8/\u0662\u0665\u0665", "\uff18/255", "8\u2044255", "8\u2215255", "8\xa0/255",
    "8/255\n", "8,5/255", "8.5.1", "8/255 px", "e5", "1e", "1e9999", "1e400000000", "--8", "",
    "8/1e999", "1e-999", "1e-200/1e200",
    "\x20", ".", "8:255", "8\\255", "9" * 65, "8/255\x00", True, False, None, [8], {"eps": 8},
    float("nan"), float("inf"), 10**400,
]  # fmt: skip


@pytest.mark.parametrize(("written", "value"), GOOD)
def test_numbers_and_fractions_are_read_exactly(written, value):
    assert parse_number(written) == value
    assert parse_eps(written) == value


@pytest.mark.parametrize("written", ODD, ids=lambda one: ascii(one)[:20])
def test_everything_else_is_refused_everywhere(written):
    with pytest.raises(ThreatError, match="eps"):
        parse_eps(written)
    card = find_card("pgd50-linf-8", kind="attack")
    if written is not None:
        with pytest.raises(ConfigError):
            expand_card(card, {"eps": [written]}, parameters=())
        with pytest.raises(ConfigError):
            make_attack("pgd", {"step_size": written})
        with pytest.raises(ConfigError):
            make_attack("curve", {"radii": [written]})
        with pytest.raises(ValueError, match=r"limit|min"):
            GateEntry(threat="linf-8", min=written)


def test_every_place_reads_the_same_number():
    card = find_card("pgd50-linf-8", kind="attack")
    (variant,) = expand_card(card, {"eps": "0.5/255"}, parameters=())
    assert variant.threat.eps == 0.5 / 255
    assert variant.name == "pgd50-linf-0.5"
    assert make_attack("pgd", {"step_size": " 0.5 / 255 "}).step_size == 0.5 / 255
    assert make_attack("curve", {"radii": ["0.5/255", "1/255"]}).radii == (0.5 / 255, 1 / 255)
    assert GateEntry(threat="linf-8", min="1e-2").min == 0.01


@pytest.mark.parametrize("text", ["0o10", "010", "1:30", "0b11", "1:30.5"])
def test_yamls_own_odd_numbers_stay_words(text):
    """YAML 1.1 reads 010 as 8 and 1:30 as 90."""
    assert parse_yaml(f"eps: {text}", where="grid", error=ConfigError) == {"eps": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("-3", -3),
        ("0", 0),
        ("+4", 4),
        ("0.5", 0.5),
        ("-.5", -0.5),
        ("2.", 2.0),
        ("1.5e3", 1500.0),
    ],
)
def test_yamls_plain_numbers_are_numbers(text, value):
    assert parse_yaml(f"eps: {text}", where="grid", error=ConfigError) == {"eps": value}
