"""The registry, and the wording of its advice."""

from __future__ import annotations

import pytest

from robustbench_local.config.registry import Registry
from robustbench_local.errors import ConfigError, InvariantError, RobustbenchError, did_you_mean

ENTRIES = {
    "data": "robustbench_local.errors:DataError",
    "model": "robustbench_local.errors:ModelError",
    "missing": "robustbench_local.errors:NoSuchError",
    "alien": "robustbench_local.config.registry:Registry",
}
REGISTRY: Registry[RobustbenchError] = Registry("error", RobustbenchError, ENTRIES)


def test_an_entry_is_the_class_it_names():
    assert REGISTRY["data"].__name__ == "DataError"


def test_names_are_listed_in_order_and_cannot_be_changed():
    assert list(REGISTRY) == ["alien", "data", "missing", "model"]
    assert len(REGISTRY) == 4
    assert "data" in REGISTRY
    assert "none" not in REGISTRY
    assert repr(REGISTRY) == "Registry(error: alien, data, missing, model)"
    with pytest.raises(TypeError):
        REGISTRY.entries["more"] = "x:y"  # type: ignore[index]


def test_what_the_caller_does_to_the_table_afterwards_has_no_effect():
    table = dict(ENTRIES)
    registry = Registry("error", RobustbenchError, table)
    table.clear()
    assert "data" in registry


def test_an_entry_is_imported_only_when_asked_for():
    lazy = Registry("error", RobustbenchError, {"later": "robustbench_local.there_is_no_such_module:X"})
    assert "later" in lazy
    with pytest.raises(ModuleNotFoundError):
        lazy["later"]


@pytest.mark.parametrize("name", ["missing", "alien"])
def test_an_entry_that_is_no_such_class_is_our_mistake(name: str):
    with pytest.raises(InvariantError, match=f"error '{name}' is registered as"):
        REGISTRY[name]


def test_a_wrong_name_is_answered_with_the_right_one():
    with pytest.raises(ConfigError, match=r"unknown error 'modle'\. Did you mean model\?"):
        REGISTRY["modle"]


def test_did_you_mean():
    assert did_you_mean("EPSS", ["eps", "norm"]) == "did you mean eps?"
    assert did_you_mean("pdg", ["pdpgd", "pgd"]) == "did you mean pgd?"
    assert did_you_mean("pdpg", ["pdpgd", "pgd"]) == "did you mean pdpgd?"
    assert did_you_mean("zzz", ["b", "a"]) == "use one of a, b"
    assert did_you_mean("zzz", "abcdef", limit=3) == "use one of a, b, c, ..."
    assert did_you_mean("zzz", []) == "there are none to choose from"
