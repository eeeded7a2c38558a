"""The harness's page: every test that it names exists, and every module of the harness is named."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from robustbench_local.evaluation import harness

FOLDER = Path(harness.__file__).parent
PAGE = (FOLDER / "README.md").read_text("utf-8")
TESTS = Path(__file__).parents[2]
NAMED_TESTS = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)


def test_every_test_that_the_page_names_exists():
    assert len(NAMED_TESTS) > 30
    for file, name in NAMED_TESTS:
        tree = ast.parse((TESTS / file).read_text("utf-8"))
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, (
            file,
            name,
        )


def test_every_module_of_the_harness_is_named_and_every_module_named_is_there():
    modules = {path.name for path in FOLDER.glob("*.py")} - {"__init__.py"}
    assert modules == set(re.findall(r"`(\w+\.py)`", PAGE))


def test_every_rule_has_a_test():
    rules = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| Rule")]
    assert len(rules) > 20
    for rule in rules:
        assert "::test_" in rule, rule
