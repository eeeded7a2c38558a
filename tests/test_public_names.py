"""The public names: sorted, complete, documented, and really there."""

from __future__ import annotations

import ast
import inspect
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import robustbench_local as rbl


def test_all_is_sorted_and_every_name_is_there():
    assert rbl.__all__ == sorted(
        rbl.__all__, key=lambda name: (not name.isupper(), name.islower() or "_" in name, name)
    )
    for name in rbl.__all__:
        assert getattr(rbl, name) is not None
    assert set(rbl.__all__) <= set(dir(rbl))


@pytest.mark.parametrize("name", [name for name in rbl.__all__ if name != "__version__"])
def test_every_public_name_says_what_it_is(name):
    assert len(inspect.getdoc(getattr(rbl, name)).split()) > 5


def test_every_attack_and_certificate_is_public():
    from robustbench_local.attacks import ATTACKS
    from robustbench_local.certification import CERTIFICATES

    for registry in (ATTACKS, CERTIFICATES):
        for name in registry:
            assert getattr(rbl, registry[name].__name__) is registry[name]


def test_dir_shows_public_names_only():
    assert dir(rbl) == sorted(rbl.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="evalute"):
        _ = rbl.evalute


IN_A_FRESH_INTERPRETER = """
import json, sys
import robustbench_local as rbl
listed = dir(rbl)
first = {name: repr(getattr(rbl, name)) for name in sys.argv[1:]}
from robustbench_local import run  # imports most of the package
again = {name: repr(getattr(rbl, name)) for name in sys.argv[1:]}
print(json.dumps([first == again, sorted(set(listed) ^ set(dir(rbl))), first]))
"""


@pytest.mark.slow
def test_a_name_means_the_same_before_and_after_the_first_import():
    rooms = sorted(module.name for module in pkgutil.iter_modules(rbl.__path__))
    names = [*rooms, *rbl.__all__]
    done = subprocess.run(
        [sys.executable, "-c", IN_A_FRESH_INTERPRETER, *names], capture_output=True, text=True, check=True
    )
    same, listed_only_once, values = json.loads(done.stdout)
    assert same
    assert listed_only_once == []
    assert "attacks" in rooms
    assert values["attacks"].startswith("<module 'robustbench_local.attacks'")


def test_no_public_name_is_also_the_name_of_a_module():
    assert set(rbl.__all__).isdisjoint(module.name for module in pkgutil.iter_modules(rbl.__path__))


@pytest.mark.slow
def test_no_file_calls_torch_load_in_a_way_that_may_run_code():
    package = Path(rbl.__file__).parent
    trusted = []
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                words = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert "weights_only" in words, file
                if words["weights_only"] != "True":
                    trusted.append(file.name)
    assert trusted in ([], ["weight_files.py"])
