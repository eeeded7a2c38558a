"""A number that is not to be trusted says why in words."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from test_trust import make_result

from robustbench_local.reports.analysis.distrust_reasons import (
    DISTRUST_REASONS,
    MAX_REASONS,
    describe_reasons,
    explain_mark,
)

GUIDE = Path(__file__).parents[3] / "docs" / "explanation" / "trust.md"
WITHOUT_DISTRUST = {"D16", "D23", "D24"}
"""Diagnostics that never make a number not trustworthy."""


def test_every_diagnostic_that_can_fail_has_its_reason_in_words():
    documented = set(re.findall(r"^\| (D\d+[a-c]?) \|", GUIDE.read_text("utf-8"), re.MULTILINE))
    assert documented - WITHOUT_DISTRUST == set(DISTRUST_REASONS)
    assert not [text for text in DISTRUST_REASONS.values() if re.search(r"\bD\d|[.:;]$", text)]


@pytest.mark.parametrize(
    ("extra", "end"), [(0, ""), (1, " and for 1 more reason"), (2, " and for 2 more reasons")]
)
def test_reasons_beyond_the_first_are_counted(extra, end):
    names = ["D6a", "D10", "D29", "D20"][: MAX_REASONS + extra]
    text = describe_reasons(map(make_result, names))
    named = [DISTRUST_REASONS[name] for name in names[:MAX_REASONS]]
    assert text == (f"{', '.join(named)}{end}" if extra else " and ".join(named))


def test_a_mark_names_one_finding_once_and_the_block_before_all():
    same = [make_result("D7"), make_result("D30"), make_result("D7")]
    assert explain_mark(same) == (
        "not trustworthy because the gradient that attacks follow is misleading (D7, D30)"
    )
    blocked = explain_mark([make_result("D7"), make_result("D3", "block")])
    assert blocked == "void because the model is not in evaluation mode (D7, D3)"
    assert explain_mark([replace(make_result("D99"), name="a new check")]) == (
        'not trustworthy because it fails the check "a new check" (D99)'
    )
    assert explain_mark([]) == ""
