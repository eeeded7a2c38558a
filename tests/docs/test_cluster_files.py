"""The files for clusters: manifests that Kubernetes accepts, and a script that names its shard."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from doc_blocks import ROOT

CLUSTERS = ROOT / "clusters"
MANIFESTS = ("kubernetes-shards.yaml", "kubernetes-merge.yaml")


def read_objects(name: str) -> dict[tuple[str, str], dict]:
    objects = yaml.safe_load_all((CLUSTERS / name).read_text("utf-8"))
    return {(one["kind"], one["metadata"]["name"]): one for one in objects}


@pytest.mark.extra
@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_is_valid_by_the_schemas_of_kubernetes(name: str):
    validator = pytest.importorskip("kubernetes_validate", reason="needs the schemas of Kubernetes")
    for content in read_objects(name).values():
        validator.validate(content, "1.37", strict=True)
    broken = next(iter(read_objects(name).values())) | {"spek": {}}
    with pytest.raises(validator.ValidationError):
        validator.validate(broken, "1.37", strict=True)


def test_the_job_has_as_many_shards_as_its_command_says():
    job = read_objects("kubernetes-shards.yaml")["Job", "rbl-shards"]
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    count = int(container["args"][container["args"].index("--shard") + 1].removeprefix("auto/"))
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == count
    merge = read_objects("kubernetes-merge.yaml")["Job", "rbl-merge"]["spec"]["template"]["spec"]
    assert f"runs/*-shard-*-of-{count} " in merge["containers"][0]["command"][-1]
    claims = [volume["persistentVolumeClaim"] for volume in merge["volumes"]]
    assert [("PersistentVolumeClaim", claim["claimName"]) for claim in claims] == [
        key for key in read_objects("kubernetes-shards.yaml") if key[0] == "PersistentVolumeClaim"
    ]


@pytest.mark.parametrize(
    ("variables", "shard"), [({}, "auto"), ({"SHARD_COUNT": "8"}, "3/8"), ({"SHARD_COUNT": ""}, "auto")]
)
def test_the_script_for_slurm_hands_its_arguments_and_its_shard_on(tmp_path: Path, variables, shard):
    tool = tmp_path / "rbl"
    tool.write_text('#!/bin/sh\nprintf "%s|" "$@"\n', encoding="utf-8")
    tool.chmod(0o755)
    environment = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_CPUS_PER_TASK": "4", **variables}
    environment["PATH"] = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    bash = shutil.which("bash") or "bash"
    script = [bash, str(CLUSTERS / "slurm-shards.sh"), "my grid.yaml", "--limit", "8"]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"run|my grid.yaml|--limit|8|--shard|{shard}|--workers|4|"


def test_the_script_for_slurm_has_options_that_slurm_reads():
    lines = (CLUSTERS / "slurm-shards.sh").read_text("utf-8").splitlines()
    options = [line for line in lines if line.startswith("#SBATCH ")]
    assert lines[0].startswith("#!")
    assert "#SBATCH --array=1-8" in options
    first_command = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    assert all(lines.index(option) < first_command for option in options)  # it reads none behind a command
