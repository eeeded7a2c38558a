"""The query of an attack: every part is checked, and its error names it."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="needs the extra web")
from robustbench_local.serving.attack_query import parse_attack_query
from robustbench_local.serving.problems import ProblemError

pytestmark = pytest.mark.extra
NAMES = ("stop", "speed limit", "7")


def parse(**fields):
    lists = {name: value if isinstance(value, list) else [value] for name, value in fields.items()}
    return parse_attack_query(lists, NAMES, 50)


def test_defaults_and_values():
    form = parse()
    assert (form.threat, form.attack, form.eps, form.steps, form.label, form.targets, form.seed) == (
        "Linf", "pgd", 8 / 255, 20, None, (), 0,
    )  # fmt: skip
    form = parse(
        threat="L2", eps="0.5", label="stop", target=["7", "1", "1"], steps="50", seed="3", attack="fgsm"
    )
    assert (form.eps, form.label, form.targets, form.steps, form.seed) == (0.5, 0, (1, 2), 50, 3)
    assert parse(threat="fog", severity="5", eps="1/255").eps == 5
    assert parse(eps="1e-3").eps == 0.001
    assert parse(eps="0").eps == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"esp": "1"}, "there is no parameter 'esp'; did you mean eps"),
        ({"eps": ["1", "2"]}, "eps is given 2 times"),
        ({"eps": "nan"}, "eps is 'nan'; give a number from 0 to 10, or N/255"),
        ({"eps": "1e999"}, "eps is"),
        ({"eps": "-1"}, "eps is"),
        ({"eps": "300/255"}, "eps is"),
        ({"eps": "٣"}, "eps is"),
        ({"threat": "linf"}, "threat is 'linf'; did you mean Linf"),
        ({"attack": "autoattack"}, "attack is 'autoattack'"),
        ({"steps": "51"}, "give a whole number from 1 to 50"),
        ({"steps": "1.5"}, "steps is '1.5'"),
        ({"severity": "0", "threat": "fog"}, "severity is '0'"),
        ({"label": "Stop"}, "label: there is no class 'Stop'; did you mean stop"),
        ({"target": ["3"]}, "target: there is no class '3'"),
        ({"target": ["0"] * 17}, "17 targets; give at most 16"),
        ({"seed": "99999999999"}, "seed is"),
    ],
)
def test_a_wrong_field_is_named(fields, message):
    with pytest.raises(ProblemError) as caught:
        parse(**fields)
    assert caught.value.status == 422
    assert message in caught.value.detail
