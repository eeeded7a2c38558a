"""What a command that computes nothing imports: a library costs a part of a second, torch more than one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sample_run import SampleRun, build_run

from robustbench_local.reports.analysis.gates import store_intervals
from robustbench_local.store import RunStore

HEAVY = {
    *("torch", "torchvision", "pandas", "matplotlib", "scipy", "timm", "onnxruntime", "numpy"),
    *("safetensors", "PIL", "jinja2"),
}
GATES = ({"metric": "robust_accuracy", "threat": "linf-8", "min": 0.0},)
SCRIPT = """
import json, sys
from robustbench_local.cli.main import run_command
code = run_command(sys.argv[1:])
names = {name.partition(".")[0] for name in sys.modules}
names |= {name for name in sys.modules if name.startswith("robustbench_local.")}
print(json.dumps([code, sorted(names)]), file=sys.stderr)
"""


def _run(*arguments, code=0, cwd=None, script=SCRIPT, **variables):
    """What a command has printed, and the libraries that it has imported when it ends."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **variables}
    words = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=cwd, env=env)
    got, names = json.loads(done.stderr.splitlines()[-1])
    assert got == code, done.stderr
    return done.stdout, set(names)


def _list_imports(*arguments, **how):
    return _run(*arguments, **how)[1]


LIGHT_COMMANDS = [
    ["--help"],
    ["run", "--help"],
    ["list", "attacks", "--threat", "linf", "--kind", "white-box"],
    ["show", "pgd50-linf-8"],
]
MORE_LIGHT_COMMANDS = [
    *(
        [name, "--help"]
        for name in ("report", "gate", "init", "train", "list", "show", "doctor", "attack-score")
    ),
    ["--version"],
    ["list", "certificates", "--json"],
    ["list", "defenses"],
    ["list", "models"],
    ["list", "data"],
    ["list", "examples"],
    ["show", "trades-linf-8", "--json"],
    ["show", "zoo:signs-plain"],
    ["--show-completion", "bash"],
]


@pytest.mark.parametrize(
    "arguments",
    [
        *(pytest.param(words, id=" ".join(words)) for words in LIGHT_COMMANDS),
        *(pytest.param(words, id=" ".join(words), marks=pytest.mark.slow) for words in MORE_LIGHT_COMMANDS),
    ],
)
def test_help_lists_and_pages_import_no_library_that_computes(arguments):
    assert _list_imports(*arguments, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1") & HEAVY == set()


def test_init_imports_no_library_that_computes(tmp_path):
    assert _list_imports("init", cwd=tmp_path) & HEAVY == set()
    assert (tmp_path / "grid.yaml").is_file()


def test_a_wrong_name_is_told_without_torch():
    assert _list_imports("show", "pgd50", code=2) & HEAVY == set()


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["list", "attacks"], ["list", "examples"], ["init"]], ids=" ".join)
def test_lists_and_init_do_not_build_the_schema_of_grids(arguments, tmp_path):
    assert "robustbench_local.evaluation.grid.schema" not in _list_imports(*arguments, cwd=tmp_path)


@pytest.mark.slow
def test_a_gate_whose_intervals_are_stored_imports_no_library_that_computes(tmp_path):
    run = build_run(tmp_path / "run", SampleRun(gates=GATES))
    before, libraries = _run("gate", run)
    assert libraries & HEAVY == {"numpy", "scipy"}
    with RunStore.open_readonly(run) as store:
        identity = store.read_identity()
    resolved = (run / "run.yaml").read_text()
    with RunStore.create_or_open(run, resolved_yaml=resolved, identity=identity) as store:
        store_intervals(store)
    after, libraries = _run("gate", run)
    assert libraries & HEAVY == set()
    assert after == before


@pytest.mark.slow
def test_a_report_imports_neither_torch_nor_pandas(tmp_path):
    run = build_run(tmp_path / "run", SampleRun(gates=GATES))
    libraries = _list_imports("report", run, "--out", tmp_path / "page")
    libraries -= {"pandas"} if "pyarrow" in libraries else set()  # it imports pandas by itself
    assert not libraries & {"torch", "torchvision", "pandas", "timm", "onnxruntime"}


def test_words_are_completed_without_torch():
    variables = {"_RBL_COMPLETE": "complete_bash", "COMP_WORDS": "rbl show pgd50-m", "COMP_CWORD": "2"}
    script = SCRIPT.replace("import json, sys", "import json, sys; sys.argv[:1] = ['rbl']")
    printed, names = _run(script=script, **variables)
    assert printed.split() == ["pgd50-margin-linf-8"]
    assert names & HEAVY == set()
