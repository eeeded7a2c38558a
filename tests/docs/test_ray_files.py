"""The files of the guide to clusters: valid by their schemas, and about the same image and port."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml
from doc_blocks import ROOT

CLUSTERS = ROOT / "clusters"
COMPOSE, MANIFEST = CLUSTERS / "ray-compose.yaml", CLUSTERS / "ray-kubernetes.yaml"


@pytest.mark.slow
def test_the_compose_file_is_valid_by_the_schema_of_compose(tmp_path):
    (tmp_path / "broken.yaml").write_text(
        COMPOSE.read_text("utf-8").replace("interval:", "intervall:"), "utf-8"
    )
    for file, code in ((COMPOSE, 0), (tmp_path / "broken.yaml", 1)):
        command = [
            sys.executable,
            "-m",
            "check_jsonschema",
            "--builtin-schema",
            "vendor.compose-spec",
            str(file),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr


def test_the_nodes_are_a_target_of_the_image_and_meet_at_one_port():
    services = yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]
    assert "AS ray\n" in (ROOT / "Dockerfile").read_text("utf-8")
    assert all(service["build"]["target"] == "ray" for service in services.values())
    assert "--port=6379" in services["head"]["command"]
    assert "--address=head:6379" in services["worker"]["command"]
    cluster = yaml.safe_load(MANIFEST.read_text("utf-8"))["spec"]
    assert f"ray=={cluster['rayVersion']}\n" in (ROOT / "constraints.txt").read_text("utf-8")


@pytest.mark.extra
def test_the_pods_are_valid_by_the_schemas_of_kubernetes():
    validator = pytest.importorskip("kubernetes_validate", reason="needs the schemas of Kubernetes")
    content = yaml.safe_load(MANIFEST.read_text("utf-8"))
    assert (content["apiVersion"], content["kind"]) == ("ray.io/v1", "RayCluster")
    groups = [content["spec"]["headGroupSpec"], *content["spec"]["workerGroupSpecs"]]
    for group in groups:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **group["template"]}
        validator.validate(pod, "1.37", strict=True)
        with pytest.raises(validator.ValidationError):
            validator.validate(pod | {"spek": {}}, "1.37", strict=True)
