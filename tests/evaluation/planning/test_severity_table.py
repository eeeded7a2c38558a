"""Severity in a grid: the convention for German signs, a table of one's own, and wrong entries."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from robustbench_local.data.gtsrb import CLASS_NAMES
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.grid.schema import load_grid
from robustbench_local.evaluation.planning.severity_table import (
    STOP_SIGN_RULE,
    compute_stop_severity,
    resolve_severity,
)

BASE = {"data": {"source": "signs"}, "models": [{"id": "plain", "source": "zoo:signs-plain"}]}


def resolve(names, severity=None):
    grid, _ = load_grid({**BASE, "attacks": ["fgsm-linf-8"], "severity": severity})
    return resolve_severity(
        grid, [SimpleNamespace(id="plain", data=SimpleNamespace(class_names=tuple(names)))]
    )


def test_the_convention_has_the_published_figures():
    # v^2 / 120^2, to the two digits that people quote
    expected = {0: 0.03, 1: 0.06, 2: 0.17, 3: 0.25, 4: 0.34, 5: 0.44, 7: 0.69, 8: 1.0}
    expected |= {6: 0.69, 32: 1.0, 12: 0.69, 13: 0.05, 17: 0.01, 41: 0.01, 14: 0.0}
    assert {index: round(compute_stop_severity(CLASS_NAMES[index]), 2) for index in expected} == expected


def test_german_signs_get_the_convention_for_images_of_stop_only():
    found = resolve(CLASS_NAMES)
    entry = found["models"]["plain"]
    assert entry["sources"] == [14]
    assert entry["costs"]["8"] == 1.0
    assert "14" not in entry["costs"]
    assert len(entry["costs"]) == 42


def test_the_convention_follows_names_and_not_numbers():
    turned = tuple(reversed(CLASS_NAMES))
    entry = resolve(turned)["models"]["plain"]
    assert entry["sources"] == [turned.index("Stop")]
    assert entry["costs"][str(turned.index("Speed limit (120km/h)"))] == 1.0


def test_the_convention_says_what_it_squares_and_what_it_is_not():
    names = {name: compute_stop_severity(name) for name in CLASS_NAMES}
    said = {
        "Priority road": 100,
        "End of speed limit (80km/h)": 100,
        "End of all speed and passing limits": 120,
    }
    assert all(names[name] == (speed / 120) ** 2 for name, speed in said.items())
    assert "(predicted speed limit / 120 km/h) squared" in STOP_SIGN_RULE
    assert f"{names['Yield']} for yield, {names['Road work']} for every other sign" in STOP_SIGN_RULE
    assert STOP_SIGN_RULE.endswith("a convention and not an accident statistic")


def test_other_classes_have_no_severity_unless_the_grid_says_so():
    assert resolve(("cat", "dog")) is None
    own = resolve(("cat", "dog"), {"dog": 0.4, 0: 1})
    assert own["models"]["plain"] == {"costs": {"1": 0.4, "0": 1.0}, "sources": []}


def test_a_table_of_ones_own_replaces_the_convention():
    entry = resolve(CLASS_NAMES, {"Yield": 0.5})["models"]["plain"]
    assert entry == {"costs": {"13": 0.5}, "sources": []}


def test_a_class_that_does_not_exist_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean Yield"):
        resolve(CLASS_NAMES, {"Yeild": 0.5})


@pytest.mark.parametrize("severity", [{"Stop": 1.5}, {"Stop": -0.1}, {}, {"Stop": "much"}])
def test_a_severity_out_of_range_is_refused(severity):
    with pytest.raises(ConfigError, match="severity"):
        resolve(CLASS_NAMES, severity)
