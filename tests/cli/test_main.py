"""The command line as a user has it: what is printed, and the exit code."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil

import pytest

from robustbench_local.cli.json_events import EVENTS
from robustbench_local.cli.main import run_command
from robustbench_local.evaluation.execution.batch_size import ModelSpeed

SHORT_GRID = """\
name: short
data: {source: "npz:digits.npz"}
models: [{id: first, source: "checkpoint:first.safetensors", architecture: mnist_fast}]
attacks: [fgsm-linf-8]
"""


@pytest.fixture
def rbl(capsys, monkeypatch):
    """Runs a command; returns the exit code, the output and the error line."""
    monkeypatch.setenv("RBL_BATCH_SIZE", "32")  # measuring it takes a second a model

    def run(*arguments):
        code = run_command([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def _finished(_made, tmp_path_factory):
    """A folder in which the whole grid was run, and what that printed."""
    folder = tmp_path_factory.mktemp("finished") / "place"
    shutil.copytree(_made, folder)
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.chdir(folder)
        patch.setenv("RBL_BATCH_SIZE", "32")
        assert run_command(["run", "grid.yaml", "--out", "out", "--device", "cpu"]) == 0
    assert err.getvalue() == ""
    return folder, out.getvalue()


@pytest.fixture
def finished(_finished, tmp_path, monkeypatch):
    """A copy of that folder to work in, and what was printed."""
    folder, printed = _finished
    shutil.copytree(folder, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place", printed


@pytest.fixture
def short(workplace):
    """A function that writes a grid of one cell with this gate."""

    def write(gate):
        (workplace / "grid.yaml").write_text(SHORT_GRID + gate, encoding="utf-8")
        return workplace

    return write


def test_run_shows_plan_progress_table_gates_and_report(finished):
    folder, out = finished
    assert "6 cells" in out
    assert "done 6/6 PGD-50, 4 steps, 2 restarts, eps 16/255 on second" in out
    assert "worst case, linf-8" in out
    assert "PASS  first  " in out
    assert (folder / "out" / "report.html").stat().st_size > 10_000
    for name in ("results.json", "results.csv", "outcomes.csv", "report.md"):
        assert (folder / "out" / name).exists()


def test_dry_run_writes_nothing(workplace, rbl):
    before = sorted(path.name for path in workplace.iterdir())
    code, out, _ = rbl("run", "grid.yaml", "--dry-run")
    assert code == 0
    assert "nothing was run" in " ".join(out.split())
    assert out.index("models, before any attack") < out.index("max. passes")
    assert sorted(path.name for path in workplace.iterdir()) == before


def test_json_is_one_object_a_line_and_ends_with_the_results(short, rbl):
    workplace = short("gates: [{metric: clean_accuracy, min: 0, on: estimate}]\n")
    code, out, _ = rbl("run", "grid.yaml", "--out", "out", "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    kinds = [event["event"] for event in events]
    assert kinds[:3] == ["models", "plan", "run_started"]
    assert kinds[-3:] == ["results", "gate", "run_ended"]
    assert {"diagnosis", "cell_started", "progress", "cell_ended"} < set(kinds)
    for event in events:  # each has the keys that the reference describes
        expected = EVENTS[event.pop("event")]
        assert set(event) == set(expected) or set(expected) - {"*"} < set(event)
    assert events[-2]["status"] == "pass"
    assert events[-1]["exit_code"] == 0
    assert events[-1]["seconds"] <= events[-1]["max_seconds"] + 60
    assert events[-3]["cells"] == json.loads((workplace / "out" / "results.json").read_text())["cells"]
    code, out, _ = rbl("gate", "out")
    assert (code, out.split()[0]) == (0, "PASS")


@pytest.mark.parametrize(("limit", "code"), [(0.99, 1), pytest.param(0.01, 0, marks=pytest.mark.slow)])
def test_a_failed_gate_is_exit_code_1_in_run_and_gate(short, rbl, limit, code):
    short(f"gates: [{{metric: robust_accuracy, threat: linf-8, min: {limit}, on: estimate}}]\n")
    assert rbl("run", "grid.yaml", "--out", "out")[0] == code
    again, out, _ = rbl("gate", "out")
    assert again == code
    assert out.split()[0] == ("FAIL" if code else "PASS")


def test_a_straddled_gate_is_exit_code_4(short, rbl):
    short("gates: [{metric: robust_accuracy, threat: linf-8, model: first, min: 0.6, on: lower}]\n")
    code, out, _ = rbl("run", "grid.yaml", "--out", "out")
    assert code == 4
    assert "straddles" in out


def test_report_renders_again_to_the_same_bytes(finished, rbl):
    workplace, _ = finished
    first = (workplace / "out" / "report.html").read_bytes()
    code, out, _ = rbl("report", "out", "-o", "elsewhere/page.html")
    assert code == 0
    assert out.strip().endswith("page.html")
    assert (workplace / "elsewhere" / "page.html").read_bytes() == first


WRONG = {
    ("run", "absent.yaml"): 2,
    ("run", "grid.yaml", "--limit", "0"): 2,
    ("run", "grid.yaml", "--limit", "many"): 2,
    ("run", "grid.yaml", "--batch-size", "0"): 2,
    ("run", "grid.yaml", "--device", "abacus"): 2,
    ("run", "grid.yaml", "--cards", "absent"): 2,
    ("run", "grid.yaml", "--out", "digits.npz/below"): 2,
    ("run", "grid.yaml", "--unknown"): 2,
    ("report", "absent"): 2,
    ("gate", "."): 2,
    ("list", "atacks"): 2,
    ("init", "--example", "foldr"): 2,
    ("unknown",): 2,
}


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_bad_input_gets_one_line_and_its_exit_code(workplace, rbl, arguments):
    code, _, err = rbl(*arguments)
    assert code == WRONG[arguments]
    assert err.startswith("rbl: error: ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (("npz:digits.npz", "npz:absent.npz"), 3, "absent.npz"),
        (("fgsm-linf-8", "fgsm-linf-9"), 2, "fgsm-linf-8"),
        (("steps: 4", "stebs: 4"), 2, "steps"),
        (("steps: 4", "steps: 0"), 2, "step"),
        (('"8/255', '"-8/255'), 2, "eps"),
        (('"8/255"', ".nan"), 2, "eps"),
        (("architecture: mnist_fast", "architecture: mnist_fats"), 2, "mnist_fast"),
        (
            ('checkpoint:first.safetensors", architecture: mnist_fast', 'python:first.py:make"'),
            5,
            "allow-code",
        ),
        (('source: "npz:digits.npz"', 'source: "npz:digits.npz", limit: -3'), 2, "limit"),
        (("name: small", "defenses: [jpg-75]"), 2, "jpeg-75"),
        (("name: small", "defenses: [none, none]"), 2, "listed twice"),
        (("name: small", "defenses: [{card: jpeg-75, qualty: 50}]"), 2, "quality"),
    ],
)
def test_a_wrong_grid_gets_one_line_and_its_exit_code(workplace, rbl, change, code, words):
    text = (workplace / "grid.yaml").read_text()
    assert change[0] in text
    (workplace / "grid.yaml").write_text(text.replace(*change, 1))
    (workplace / "first.py").write_text("raise SystemExit('ran')")
    got, _, err = rbl("run", "grid.yaml", "--out", "out")
    assert got == code
    assert words in err
    assert len(err.splitlines()) == 1
    assert not (workplace / "out").exists()


def test_a_file_that_is_not_there_costs_its_own_model_and_no_other(workplace, rbl):
    text = (workplace / "grid.yaml").read_text()
    (workplace / "grid.yaml").write_text(text.replace("first.safetensors", "absent.safetensors"))
    code, out, _ = rbl("run", "grid.yaml", "--dry-run")
    assert code == 4
    assert "absent.safetensors" in out
    assert not (workplace / "runs").exists()
    (workplace / "grid.yaml").write_text(
        text.replace("first.safetensors", "absent.safetensors").replace("second.saf", "absent.saf")
    )
    code, _, err = rbl("run", "grid.yaml", "--out", "out")
    assert code == 3
    assert "absent.safetensors" in err


def test_debug_shows_the_traceback_and_nothing_else_does(workplace, rbl, monkeypatch):
    monkeypatch.delenv("RBL_DEBUG", raising=False)
    assert "Traceback" not in rbl("run", "absent.yaml")[2]
    monkeypatch.setenv("RBL_DEBUG", "1")
    assert "Traceback" in rbl("run", "absent.yaml")[2]


def test_a_bug_of_ours_is_one_line_and_exit_code_70(workplace, rbl, monkeypatch):
    from robustbench_local.cli import grid_run as run

    def fail(*_, **__):
        raise ZeroDivisionError("oops")

    monkeypatch.delenv("RBL_DEBUG", raising=False)
    monkeypatch.setattr(run, "prepare_run", fail)
    code, _, err = rbl("run", "grid.yaml")
    assert code == 70
    assert "--debug" in err
    assert len(err.splitlines()) == 1


def test_an_interrupt_is_exit_code_130_and_says_how_to_go_on(workplace, rbl, monkeypatch):
    from robustbench_local.cli import grid_run as run

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "execute_run", interrupt)
    code, _, err = rbl("run", "grid.yaml", "--out", "out")
    assert code == 130
    assert "same command" in err


@pytest.mark.parametrize("kind", ["attacks", "certificates", "defenses", "models", "data", "examples"])
def test_list_shows_what_there_is(rbl, kind):
    code, out, _ = rbl("list", kind, "--json")
    rows = json.loads(out)
    assert code == 0
    assert all(row["name"] for row in rows)
    assert len(rows) >= 2
    assert rows[0]["name"] in rbl("list", kind)[1]


def test_defenses_are_listed_with_what_they_do_to_a_model(rbl):
    kinds = {row["name"]: row["kinds"] for row in json.loads(rbl("list", "defenses", "--json")[1])}
    assert (kinds["standard"], kinds["jpeg-75"], kinds["noise-0.1"]) == (
        ["recipe"],
        ["wrapper"],
        ["wrapper", "random"],
    )


@pytest.mark.slow
def test_certificates_are_listed_planned_run_and_shown(workplace, rbl):
    assert "certify-smoothing-l2-0.5" in rbl("list", "certificates")[1]
    text = (workplace / "grid.yaml").read_text()
    card = "  - {card: certify-smoothing-sequential-l2-0.25, n: 100, n0: 10}\n"
    gate = "  - {metric: certified_accuracy, threat: l2-0.25, model: first, min: 0, on: lower}\n"
    text = text.replace("  - fgsm-linf-8\n", card).replace("gates:\n", "gates:\n" + gate)
    (workplace / "grid.yaml").write_text(text)
    code, out, _ = rbl("run", "grid.yaml", "--limit", "6", "--dry-run")
    assert code == 0
    assert "Smoothing certificate (sequential)" in out
    assert "666" in out, "six images, 110 votes each and one look of the harness"
    code, out, _ = rbl("run", "grid.yaml", "--limit", "6", "--out", "out", "--device", "cpu")
    assert code == 0
    assert re.search(r"\bcertified \d+\.\d%", out)
    assert "its majority vote under noise" in out
    assert "PASS  first  certified_accuracy[l2-0.25] = " in out


def test_init_writes_a_grid_that_loads_and_overwrites_nothing(workplace, rbl):
    assert rbl("init", "-o", "new.yaml")[0] == 0
    assert (workplace / "new.yaml").read_text().startswith("# ")
    code, _, err = rbl("init", "-o", "new.yaml")
    assert code == 2
    assert "there already" in err


def test_doctor_finds_this_machine_in_order(rbl):
    code, out, _ = rbl("doctor")
    assert code == 0
    assert "torchvision" in out


def test_version_and_help(rbl):
    assert rbl("--version")[1].startswith("robustbench-local ")
    for command in ("run", "report", "gate", "init", "list", "show", "doctor"):
        code, out, _ = rbl(command, "--help")
        assert code == 0
        assert "Usage" in out


@pytest.mark.slow
def test_a_grid_is_confined_to_a_pair_of_classes_which_the_plan_names(workplace, rbl):
    goal = ("--source-class", "3", "--target-class", "8", "--target-class", "9")
    code, out, _ = rbl("run", "grid.yaml", "--dry-run", *goal)
    assert code == 0
    assert "goal: class 3 -> any of class 8, class 9" in out
    code, out, _ = rbl("run", "grid.yaml", "--dry-run", "--json", *goal)
    plan = next(event for event in map(json.loads, out.splitlines()) if event["event"] == "plan")
    cell = plan["cells"][0]
    assert (cell["sources"], cell["targets"]) == (["class 3"], ["class 8", "class 9"])
    code, _, err = rbl("run", "grid.yaml", "--dry-run", "--target-class", "10")
    assert (code, err) == (2, "rbl: error: there is no class '10': the classes are 0 to 9\n")


def read_plan(rbl, *options):
    code, out, _ = rbl("run", "grid.yaml", "--dry-run", "--json", "--device", "cpu", *options)
    assert code == 0
    (plan,) = [event for line in out.splitlines() if (event := json.loads(line))["event"] == "plan"]
    return plan


def test_a_dry_run_expects_what_an_earlier_run_beside_it_took(finished, rbl):
    folder, _ = finished
    before = sorted(path.name for path in folder.iterdir())
    plan = read_plan(rbl, "--out", "other", "--pilot-seconds", "0")
    results = json.loads((folder / "out" / "results.json").read_text())
    taken = [cell["forward_passes"] + cell["backward_passes"] for cell in results["cells"]]
    assert [cell["expected_passes"]["value"] for cell in plan["cells"]] == pytest.approx(taken)
    assert plan["cells"][0]["expected_from"].startswith("earlier run out, ")
    assert plan["expected"]["passes"]["value"] == pytest.approx(sum(taken))
    assert plan["expected"]["peak_bytes"] is None
    assert sorted(path.name for path in folder.iterdir()) == before
    (folder / "out" / "run.db").write_bytes(b"no database")  # passed over
    assert read_plan(rbl, "--out", "other")["expected"] is None


@pytest.mark.slow
def test_a_pilot_of_all_images_expects_the_passes_that_the_run_takes(finished, rbl, monkeypatch):
    from robustbench_local.evaluation.execution import model_speed

    folder, _ = finished
    fast = ModelSpeed(forward_seconds=1e-6, backward_seconds=1e-6)  # so that all images are affordable
    monkeypatch.setattr(model_speed, "try_measure_speed", lambda *_: fast)
    results = json.loads((folder / "out" / "results.json").read_text())
    shutil.move("out", folder.parent / "elsewhere")
    plan = read_plan(rbl, "--pilot-seconds", "60")
    taken = [cell["forward_passes"] + cell["backward_passes"] for cell in results["cells"]]
    assert [cell["expected_passes"]["value"] for cell in plan["cells"]] == pytest.approx(taken, rel=0.01)
    assert all(cell["expected_from"].startswith("pilot of ") for cell in plan["cells"])
    assert plan["expected"]["peak_bytes"] > 2**27
    assert not (folder / "runs").exists()
    code, out, _ = rbl("run", "grid.yaml", "--dry-run", "--pilot-seconds", "60")
    assert code == 0
    assert "expected passes" in out
    assert "memory: about " in out
