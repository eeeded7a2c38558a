"""``rbl gate`` as a pipeline calls it: exit codes, files, and one line for each mistake."""

from __future__ import annotations

import json

import pytest
from gate_runs import GateCell, GateRun, make_run

from robustbench_local.cli.main import run_command
from robustbench_local.errors import ConfigError
from robustbench_local.run import Run

GOOD, MIDDLE, BAD = "r" * 90 + "b" * 10, "r" * 50 + "b" * 50, "r" * 10 + "b" * 90
GATE = {"metric": "robust_accuracy", "threat": "linf-8", "min": 0.5}
POLICY = """gates:
  - id: floor
    metric: robust_accuracy
    threat: linf-8
    min: 50%
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, images in {"good": GOOD, "middle": MIDDLE, "bad": BAD}.items():
        make_run(images, gates=(GATE,)).write_store(folder / name)
    cells = (GateCell(images=BAD), GateCell(images="r" * 100, attack="ibp", measure="certificate"))
    GateRun(cells=cells, gates=(GATE,)).write_store(folder / "contradicted")
    GateRun(cells=(GateCell(images=GOOD, model="::error::" + "m" * 200),), gates=(GATE,)).write_store(
        folder / "long"
    )
    GateRun(cells=(), gates=()).write_store(folder / "empty")
    (folder / "policy.yaml").write_text(POLICY, encoding="utf-8")
    return folder


@pytest.fixture
def gate(runs, monkeypatch, capsys):
    """A function: exit code and standard output of a command in the folder of the runs."""
    monkeypatch.chdir(runs)
    monkeypatch.delenv("RBL_POLICY", raising=False)

    def call(*arguments):
        code = run_command(["gate", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["good"], 0),
        (["bad"], 1),
        (["middle"], 4),
        (["contradicted"], 70),
        (["empty"], 0),
        (["bad", "--exit-zero"], 0),
        (["contradicted", "--exit-zero"], 70),
        (["middle", "--fail-on", "error"], 0),
        (["middle", "--fail-on", "error", "--fail-on", "inconclusive"], 4),
        (["bad", "--fail-on", "error"], 1),
        (["good", "--policy", "policy.yaml"], 0),
        (["empty", "--policy", "policy.yaml"], 4),
        (["bad", "--policy", "release", "--baseline", "good"], 1),
        (["good", "--policy", "release", "--baseline", "bad"], 0),
    ],
)
def test_exit_codes(gate, arguments, code):
    assert gate(*arguments)[0] == code


def test_one_gate_is_one_line_and_the_last_line_counts(gate):
    lines = gate("bad")[1].splitlines()
    assert lines[0] == (
        "FAIL  m  robust_accuracy[linf-8] = 10.0% [4.9, 17.6] n=100, required >= 50% (lower bound)"
    )
    assert lines[-1] == "1 failed"
    long = gate("long")[1].splitlines()
    assert len(long[0]) > 280
    assert long[0].startswith("PASS  ::error::mmm")


def test_several_forms_at_once_and_text_beside_them(gate, runs):
    code, out, _ = gate(
        "bad", "--policy", "policy.yaml", "--format", "junit", "-o", "new/gates.xml", "--format", "sarif",
        "-o", "new/gates.sarif", "--format", "json", "-o", "new/gates.json",
    )  # fmt: skip
    assert code == 1
    assert out.startswith("FAIL  m  ")
    assert (runs / "new" / "gates.xml").read_text("utf-8").startswith("<?xml")
    place = json.loads((runs / "new" / "gates.sarif").read_text("utf-8"))["runs"][0]["results"][0][
        "locations"
    ]
    assert place[0]["physicalLocation"]["artifactLocation"]["uri"] == "policy.yaml"
    assert place[0]["physicalLocation"]["region"]["startLine"] == 2
    content = json.loads((runs / "new" / "gates.json").read_text("utf-8"))
    assert (content["run"], content["policy"], content["exit_code"]) == ("bad", "policy", 1)


def test_a_form_on_standard_output_stands_there_alone(gate):
    code, out, _ = gate("bad", "--format", "json")
    assert (code, json.loads(out)["gates"][0]["status"]) == (1, "fail")
    assert gate("bad", "--format", "json", "--output", "-")[1] == out
    commands = gate("bad", "--format", "github")[1].splitlines()
    assert commands[0].startswith("::error file=bad/run.yaml,line=1,title=robust_accuracy[linf-8]::FAIL")


def test_the_text_in_a_file_is_that_on_the_terminal(gate, runs):
    _, out, _ = gate("middle", "-o", "gates.txt")
    assert (runs / "gates.txt").read_text("utf-8") == out


def test_policies_are_listed_and_shown(gate):
    code, out, _ = gate("--list-policies")
    assert (code, [line.split()[0] for line in out.splitlines()]) == (
        0,
        ["release", "strict", "traffic-signs"],
    )
    code, out, _ = gate("--show-policy", "strict")
    assert code == 0
    assert "id: worst-class-floor" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name the run directory. Write: rbl gate runs/NAME"),
        (["nowhere"], "nowhere"),
        (["good", "--policy", "relase"], "Did you mean release; a file of your own ends with .yaml"),
        (["good", "--policy", "missing.yaml"], "missing.yaml: cannot be read"),
        (["good", "--baseline", "bad"], "a baseline needs a policy"),
        (["good", "--policy", "release", "--baseline", "nowhere"], "nowhere"),
        (["good", "--format", "yunit"], "there is no 'yunit'. Did you mean junit?"),
        (["good", "--fail-on", "errors"], "there is no 'errors'. Did you mean error?"),
        (["good", "-o", "a", "-o", "b"], "2 outputs for 1 format. Repeat --format"),
        (["good", "--format", "json", "--format", "junit"], "several formats for standard output"),
        (["good", "--format", "json", "--format", "junit", "-o", "x", "-o", "x"], "several formats for x"),
        (["good", "--format", "json", "-o", "good/run.db"], "it is a file of the run itself"),
        (["good", "--format", "json", "-o", "bad"], "bad"),
        (["--show-policy", "strikt"], "Did you mean strict?"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(gate, arguments, message):
    code, out, err = gate(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_from_python_a_run_is_judged_alike(runs):
    run, last = Run(runs / "bad"), Run(runs / "good")
    assert run.evaluate_gates().exit_code == 1
    assert last.evaluate_gates(runs / "policy.yaml").exit_code == 0
    assert run.evaluate_gates("release", last) == run.evaluate_gates("release", runs / "good")
    with pytest.raises(ConfigError, match="a baseline needs a policy"):
        run.evaluate_gates(baseline=last)
