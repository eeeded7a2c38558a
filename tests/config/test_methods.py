"""The table of methods against the classes, which the table spares a list from importing."""

from __future__ import annotations

import pytest

from robustbench_local.attacks import ATTACKS
from robustbench_local.certification import CERTIFICATES
from robustbench_local.config.methods import (
    ATTACK_METHODS,
    CERTIFICATE_METHODS,
    DEFENSE_METHODS,
    MAX_PHRASE_CHARACTERS,
    METHODS_BY_KIND,
)
from robustbench_local.defenses.recipes.recipe_registry import RECIPES
from robustbench_local.defenses.wrappers.wrapper_registry import WRAPPERS


def test_every_method_is_in_the_table_and_nothing_else():
    assert set(ATTACK_METHODS) == set(ATTACKS)
    assert set(CERTIFICATE_METHODS) == set(CERTIFICATES)
    assert set(DEFENSE_METHODS) == {*RECIPES, *WRAPPERS}


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"corruption"}))
def test_kinds_of_attacks_are_what_the_classes_declare(name):
    attack, kinds = ATTACKS[name], ATTACK_METHODS[name].kinds
    expected = {"gradients": "white-box", "scores": "score-based", "labels": "decision-based"}[attack.access]
    assert expected in kinds
    assert ("black-box" in kinds) == (attack.access != "gradients")
    assert ("minimum-norm" in kinds) == (attack.measure == "distance")
    assert ("physical" in kinds) == (attack.measure == "views")
    assert ("transfer" in kinds) == (".transfer." in attack.__module__)
    in_stages = any(folder in attack.__module__ for folder in (".ensembles.", ".adaptive."))
    assert ("ensemble" in kinds) == (in_stages or name.startswith("reference:"))


@pytest.mark.parametrize("name", sorted(DEFENSE_METHODS))
def test_kinds_of_defenses_are_what_the_classes_are(name):
    kinds = DEFENSE_METHODS[name].kinds
    assert ("wrapper" in kinds) == (name in WRAPPERS)
    assert ("recipe" in kinds) == (name in RECIPES)
    assert ("random" in kinds) == (name in WRAPPERS and WRAPPERS[name].is_random)


def test_a_phrase_fits_beside_the_longest_name():
    for table in METHODS_BY_KIND.values():
        for method in table.values():
            assert len(method.phrase) <= MAX_PHRASE_CHARACTERS + 2
            assert method.phrase == method.phrase.strip()
