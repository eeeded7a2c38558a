"""The table of constants keeps up with the package, which moves them now and then."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from constants import CONSTANTS, VerdictConstant

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def suite():
    return runpy.run_path(str(Path(__file__).parent / "__main__.py"))


@pytest.mark.parametrize("constant", CONSTANTS, ids=lambda constant: f"{constant.file} {constant.name}")
def test_every_constant_stands_where_the_table_says(constant: VerdictConstant, suite, tmp_path):
    copy = tmp_path / "module.py"
    copy.write_text((ROOT / "robustbench_local" / constant.file).read_text("utf-8"), "utf-8")
    suite["change_constant"](copy, constant, "'another'")
    assert "= 'another'" in copy.read_text("utf-8")
    assert all((ROOT / test).is_file() for test in constant.tests)
    assert len(constant.mutated_values) == 2


def test_a_constant_that_is_gone_is_noticed(suite, tmp_path):
    module = tmp_path / "module.py"
    module.write_text("OTHER = 1\n")
    with pytest.raises(ValueError, match="0 times"):
        suite["change_constant"](module, CONSTANTS[0], "1")


def test_no_constant_stands_twice_in_the_table():
    names = [(constant.file, constant.name) for constant in CONSTANTS]
    assert len(set(names)) == len(names)
