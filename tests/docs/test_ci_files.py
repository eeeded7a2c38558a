"""The files for CI services: valid by their schemas, and their steps run from a clean clone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
import yaml
from doc_blocks import DOCS, ROOT, read_blocks
from junitparser import JUnitXml

SCRIPTS = Path(sys.executable).parent


def read_schema(name: str):
    path = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / f"{name}.json"
    return json.loads(path.read_text("utf-8"))


def read_yaml(path: Path):
    return yaml.safe_load(path.read_text("utf-8"))


def read_action():
    return read_yaml(ROOT / "action.yml")


@pytest.mark.parametrize(
    ("schema", "content"),
    [
        ("github-actions", read_action()),
        ("gitlab-ci", read_yaml(ROOT / "ci" / "gitlab.yml")),
        *(
            ("github-workflows", yaml.load(block.code, Loader=yaml.BaseLoader))
            for block in read_blocks(DOCS / "ci.md")
            if ".github/" in block.code.partition("\n")[0]
        ),
    ],
    ids=["action", "gitlab", "workflow"],
)
def test_a_file_is_valid_by_the_schema_of_its_service(schema, content):
    if schema == "github-workflows":  # numbers were read as text, so that the key "on" stays one
        content["jobs"]["gate"]["timeout-minutes"] = int(content["jobs"]["gate"]["timeout-minutes"])
    jsonschema.validate(content, read_schema(schema))


def test_no_step_of_the_action_puts_an_input_into_a_script():
    for step in read_action()["runs"]["steps"]:
        assert "${{" not in step["run"]


def test_every_input_of_the_action_is_used_and_described():
    action = read_action()
    text = (ROOT / "action.yml").read_text("utf-8").partition("runs:")[2]
    for name, entry in action["inputs"].items():
        assert f"inputs.{name}" in text
        assert entry["description"]


def test_the_dockerfile_is_clean_by_hadolint_and_does_not_run_as_root():
    done = subprocess.run(
        [SCRIPTS / "hadolint", "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    text = (ROOT / "Dockerfile").read_text("utf-8")
    assert set(re.findall(r"^USER (\S+)$", text, re.MULTILINE)) == {"1000"}
    assert all("USER 1000" in stage for stage in re.split(r"^FROM ", text, flags=re.MULTILINE)[2:])
    for source in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split()), source


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A clean clone of what is committed here, with the files of the page."""
    folder = tmp_path_factory.mktemp("ci") / "clone"
    if subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, check=False).returncode:
        pytest.skip("not a git repository")
    subprocess.run(["git", "clone", "--quiet", "--no-local", ROOT, folder], check=True)
    for name in ("action.yml", "ci/gitlab.yml"):  # as they stand here, committed or not
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    for block in read_blocks(DOCS / "ci.md"):
        if block.file in {"grid.yaml", "policy.yaml"}:
            (folder / block.file).write_text(block.code, encoding="utf-8")
    return folder


@pytest.fixture
def run_script(clone: Path, tmp_path: Path):
    """A function: exit code and output of a script in the clone, with ``rbl`` from it on the path."""
    tools = tmp_path / "bin"
    tools.mkdir()
    script = f'#!/bin/sh\nexec "{sys.executable}" -m robustbench_local.cli "$@"\n'
    (tools / "rbl").write_text(script, encoding="utf-8")
    (tools / "rbl").chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RBL_", "GITHUB_"))}
    environment = {
        **kept,
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(clone),
        "RBL_CACHE": str(tmp_path / "cache"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        "GITHUB_OUTPUT": str(tmp_path / "output"),
    }

    def call(code: str, **variables: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", code],
            capture_output=True, text=True, check=False, cwd=clone, env={**environment, **variables},
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    return call


@pytest.mark.slow
def test_the_steps_of_the_action_run_from_a_clean_clone(clone, run_script, tmp_path):
    action = read_action()
    defaults = {name: str(entry.get("default", "")) for name, entry in action["inputs"].items()}
    chosen = {**defaults, "grid": "grid.yaml", "policy": "policy.yaml", "limit": "12"}

    def run_steps(**inputs: str) -> tuple[int, str]:
        said = ""
        for step in action["runs"]["steps"]:
            if "install" in step.get("if", ""):
                continue  # the tests' own environment has the package's dependencies
            variables = {
                name: {**chosen, **inputs}[re.fullmatch(r"\$\{\{ inputs\.([\w-]+) }}", value)[1]]
                for name, value in step["env"].items()
            }
            code, out = run_script(step["run"], **variables)
            said += out
            if code:
                return code, said
        return 0, said

    code, said = run_steps()
    assert code == 4, said  # without a baseline, and with few images
    assert "::warning file=policy.yaml,line=" in said
    assert (tmp_path / "output").read_text("utf-8") == "exit-code=4\n"
    assert (tmp_path / "summary.md").read_text("utf-8").startswith("## Gates: ")
    assert JUnitXml.fromfile(str(clone / "robustness.xml"))
    assert json.loads((clone / "robustness.sarif").read_text("utf-8"))["version"] == "2.1.0"
    code, said = run_steps(baseline="runs/candidate", **{"fail-on": "error"})
    assert code == 0, said
    code, said = run_steps(grid="missing.yaml")
    assert (code, "missing.yaml" in said) == (2, True)


@pytest.mark.slow
def test_the_gitlab_job_runs_from_a_clean_clone(clone, run_script):
    job = read_yaml(clone / "ci" / "gitlab.yml")["robustness"]
    variables = {name: str(value) for name, value in job["variables"].items()} | {"RBL_LIMIT": "12"}
    code, said = run_script("\n".join(job["script"]), **variables)
    assert code in {0, *job["allow_failure"]["exit_codes"]}, said
    assert JUnitXml.fromfile(str(clone / "robustness.xml"))
    code, said = run_script("\n".join(job["script"]), **(variables | {"GRID": "missing.yaml"}))
    assert code == 2, said
