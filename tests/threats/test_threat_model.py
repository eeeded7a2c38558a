"""Threat models beyond norms: their names, their ranges, and what is refused."""

from __future__ import annotations

import pytest

from robustbench_local.config.cards import CardThreat, expand_card, find_card
from robustbench_local.errors import RobustbenchError, ThreatError
from robustbench_local.evaluation.grid.schema import GateEntry
from robustbench_local.threats.threat_model import CORRUPTIONS, FAMILY_NAMES, ThreatModel


def test_families_are_named_as_in_cards_and_gates():
    assert ThreatModel(norm="spatial", eps=30).name == "spatial-30"
    assert ThreatModel(norm="corruption", eps=3, transformation="fog").name == "fog-3"
    assert len(CORRUPTIONS) == len(set(CORRUPTIONS)) == 15
    assert {"linf", "l2", "l1", "spatial", "fog"} <= set(FAMILY_NAMES)
    assert "corruption" not in FAMILY_NAMES
    assert [ThreatModel(norm=norm, eps=0).is_ball for norm in ("linf", "l1", "spatial")] == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"norm": "spatial", "eps": 181}, "at most 180 degrees"),
        ({"norm": "spatial", "eps": 30, "region": "mask"}, "transforms the whole image"),
        ({"norm": "spatial", "eps": 30, "transformation": "fog"}, "has no transformation"),
        ({"norm": "Linf", "eps": 0.1, "transformation": "fog"}, "has no transformation"),
        ({"norm": "corruption", "eps": 3}, "no corruption named"),
        ({"norm": "corruption", "eps": 3, "transformation": "fogg"}, "Did you mean fog"),
        ({"norm": "corruption", "eps": 6, "transformation": "fog"}, "from 1 to 5, got 6"),
        ({"norm": "corruption", "eps": 2.5, "transformation": "fog"}, "whole number"),
    ],
)
def test_what_a_family_does_not_have_is_refused(wrong: dict[str, object], message: str):
    with pytest.raises(ThreatError, match=message):
        ThreatModel(**wrong)


def test_a_corruption_card_expands_to_one_card_a_severity():
    variants = expand_card(find_card("fog-3"), {"eps": [1, 2, 3, 4, 5]}, parameters=())
    assert [card.name for card in variants] == [f"fog-{severity}" for severity in range(1, 6)]
    assert [card.threat.eps for card in variants] == [1, 2, 3, 4, 5]
    assert expand_card(find_card("fog-3"), {"transformation": "snow"}, parameters=())[0].name == "snow-3"
    assert expand_card(find_card("spatial-30"), {"eps": 10}, parameters=())[0].name == "spatial-10"
    random = expand_card(find_card("random10-spatial-30"), {"eps": 10}, parameters=())
    assert random[0].name == "random10-spatial-10"


def test_gates_take_the_names_of_families():
    for threat in ("fog-3", "spatial-30", "gaussian_noise-1"):
        assert GateEntry(threat=threat, min=0.5).threat == threat
    with pytest.raises(ValueError, match="fog-3"):
        GateEntry(threat="corruption-3", min=0.5)


def test_a_cards_threat_keeps_its_transformation():
    rules = CardThreat(norm="corruption", eps=3, transformation="snow")
    assert rules.build_threat_model().name == "snow-3"
    with pytest.raises(RobustbenchError):
        CardThreat(norm="corruption", eps=3).build_threat_model()


def test_stickers_and_patches_are_named_by_whole_percent_of_their_surface():
    def named(eps: float, shape: str) -> str:
        return ThreatModel(norm="sticker", eps=eps, transformation=shape).name

    assert [named(eps, "rectangles") for eps in (0.033, 0.1, 0.186, 0.372)] == [
        "sticker-3", "sticker-10", "sticker-19", "sticker-37",
    ]  # fmt: skip
    assert [named(0.1, "square"), named(0.1, "found"), named(1, "poster")] == [
        "square-10", "found-10", "poster-100",
    ]  # fmt: skip
    assert named(0.005, "found") == "found-0.5"
    assert ThreatModel(norm="patch", eps=0.1).name == "patch-10"
    assert {"sticker", "square", "found", "poster", "patch"} <= set(FAMILY_NAMES)
    assert "rectangles" not in FAMILY_NAMES
    assert [ThreatModel(norm=norm, eps=0).is_physical for norm in ("patch", "linf", "spatial")] == [
        True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"norm": "sticker", "eps": 0.1}, "no shape of a sticker named"),
        ({"norm": "sticker", "eps": 0.1, "transformation": "rectangle"}, "Did you mean rectangles"),
        ({"norm": "sticker", "eps": 10, "transformation": "square"}, "at most 1, got 10. 10% is 0.1"),
        ({"norm": "sticker", "eps": 0.5, "transformation": "poster"}, "eps is 1, got 0.5"),
        (
            {"norm": "sticker", "eps": 0.1, "transformation": "found", "region": "mask"},
            "chooses its own position",
        ),
        ({"norm": "patch", "eps": 2}, "share of an area"),
        ({"norm": "patch", "eps": 0.1, "transformation": "square"}, "has no transformation"),
    ],
)
def test_what_no_sticker_has_is_refused(wrong: dict[str, object], message: str):
    with pytest.raises(ThreatError, match=message):
        ThreatModel(**wrong)
