"""ONNX files through onnxruntime: right answers, clear refusals, nothing outside the folder."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_samples import build_matrix, onnx, write_linear_model

from robustbench_local.errors import ConfigError, ModelError, RefusedError
from robustbench_local.evaluation.isolation.isolated_call import call_isolated
from robustbench_local.models.model_sources import load_classifier
from robustbench_local.models.onnx_data import find_external_locations

IMAGES = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
EXPECTED = torch.from_numpy(IMAGES.flatten(1).numpy() @ build_matrix())


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        (("N", 3, 4, 4), "FLOAT"),
        ((2, 3, 4, 4), "FLOAT"),
        ((8, 3, 4, 4), "FLOAT"),
        (("N", 3, "H", "W"), "DOUBLE"),
    ],
)
def test_scores_are_the_graphs_whatever_its_batch_size(tmp_path: Path, shape: tuple, kind: str):
    file = write_linear_model(tmp_path / "net.onnx", shape=shape, dtype=getattr(onnx.TensorProto, kind))
    classifier = load_classifier("onnx:net.onnx", base_folder=tmp_path, access="scores")
    torch.testing.assert_close(classifier(IMAGES), EXPECTED, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(classifier(IMAGES[:1]), EXPECTED[:1], rtol=1e-5, atol=1e-5)
    assert (classifier.access, classifier.num_classes, classifier.channels) == ("scores", 4, 3)
    assert classifier.input_size == ((4, 4) if shape[2] == 4 else None)
    assert any(f"exactly {shape[0]} images" in note for note in classifier.notes) == (shape[0] != "N")
    assert classifier.provenance["weights"] == file.name
    assert classifier.count_parameters() is None


def test_one_of_several_outputs_has_to_be_named(tmp_path: Path):
    write_linear_model(tmp_path / "net.onnx", with_label=True)
    named = load_classifier("onnx:net.onnx", base_folder=tmp_path, output="scores")
    assert named.num_classes == 4
    torch.testing.assert_close(named(IMAGES), EXPECTED, rtol=1e-5, atol=1e-5)
    options = {"base_folder": tmp_path, "access": "labels", "num_classes": 4}
    labels = load_classifier("onnx:net.onnx", output="label", **options)
    assert torch.equal(labels(IMAGES).argmax(dim=1), EXPECTED.argmax(dim=1))
    with pytest.raises(ModelError, match=r"it has scores \(5, 4\), label \(5,\)"):
        load_classifier("onnx:net.onnx", **options)(IMAGES)


def test_the_runtime_is_a_part_of_the_identity(tmp_path: Path):
    write_linear_model(tmp_path / "net.onnx")
    parts = load_classifier("onnx:net.onnx", base_folder=tmp_path, access="scores").describe_parts()
    assert {"version of onnxruntime", "version of torch", "code"} <= parts.keys()


def test_the_digest_follows_the_file_and_its_data(tmp_path: Path):
    digests = set()
    for name, factor in (("one", 1.0), ("again", 1.0), ("other", 1.5)):
        write_linear_model(tmp_path / f"{name}.onnx", weights=factor * build_matrix())
        digests.add(load_classifier(f"onnx:{name}.onnx", base_folder=tmp_path).compute_digest())
    assert len(digests) == 2
    write_linear_model(tmp_path / "net.onnx", external="net.bin")
    for factor in (1.0, 2.0):
        (tmp_path / "net.bin").write_bytes((factor * build_matrix()).tobytes())
        classifier = load_classifier("onnx:net.onnx", base_folder=tmp_path)
        torch.testing.assert_close(classifier(IMAGES), factor * EXPECTED, rtol=1e-5, atol=1e-5)
        digests.add(classifier.compute_digest())
    assert len(digests) == 4


def test_tensors_outside_the_folder_are_refused(tmp_path: Path):
    project = tmp_path / "project"
    project.mkdir()
    (tmp_path / "secret.bin").write_bytes(build_matrix().tobytes())
    (project / "link.bin").symlink_to(tmp_path / "secret.bin")
    for location in ("../secret.bin", str(tmp_path / "secret.bin"), "link.bin"):
        write_linear_model(project / "net.onnx", external=location)
        with pytest.raises(RefusedError, match="outside the folder of the model"):
            load_classifier("onnx:net.onnx", base_folder=project)
    write_linear_model(project / "net.onnx", external="*/_ORT_MEM_ADDR_/*")
    with pytest.raises(ModelError, match="which does not exist"):
        load_classifier("onnx:net.onnx", base_folder=project)


def test_every_tensor_of_every_graph_is_looked_at():
    helper = onnx.helper

    def tensor(location: str) -> object:
        made = onnx.numpy_helper.from_array(np.zeros(2, np.float32), location)
        onnx.external_data_helper.set_external_data(made, location=location)
        return made

    branch = helper.make_graph([], "branch", [], [], [tensor("branch")])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=tensor("attribute")),
        helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch),
        helper.make_node("Made", [], ["e"], domain="own", several=[tensor("first"), tensor("second")]),
    ]
    sparse = helper.make_sparse_tensor(tensor("values"), tensor("indices"), [4])
    graph = helper.make_graph(nodes, "all", [], [], [tensor("initializer")], sparse_initializer=[sparse])
    inner = [helper.make_node("Constant", [], ["f"], value=tensor("function"))]
    function = helper.make_function("own", "Made", [], ["f"], inner, [helper.make_opsetid("", 17)])
    content = helper.make_model(graph, functions=[function]).SerializeToString()
    expected = {"branch", "attribute", "first", "second", "values", "indices", "initializer", "function"}
    assert find_external_locations(content) == expected


@pytest.mark.parametrize("content", [b"not a model", b"\x0a\xff\x01", b"\x80", b"\xff" * 20, b"\x0b"])
def test_bytes_that_are_no_onnx_file_are_said_to_be_none(tmp_path: Path, content: bytes):
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"net\.onnx: (is not an ONNX file|onnxruntime cannot load it)"):
        load_classifier("onnx:net.onnx", base_folder=tmp_path)


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [
        (("N", 3, 4, 4), "INT64", r"takes tensor\(int64\) \['N', 3, 4, 4\], not images"),
        (
            ("N", 3, 4, 2, 2),
            "FLOAT",
            r"not images. Export it with one input \(N, C, H, W\) or \(N, H, W, C\)",
        ),
    ],
)
def test_what_takes_no_images_is_refused(tmp_path: Path, shape: tuple, kind: str, message: str):
    write_linear_model(tmp_path / "net.onnx", shape=shape, dtype=getattr(onnx.TensorProto, kind))
    with pytest.raises(ModelError, match=message):
        load_classifier("onnx:net.onnx", base_folder=tmp_path)


def test_what_makes_no_sense_for_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_linear_model(tmp_path / "net.onnx")
    for options, message in (
        ({"weights": "w.pt"}, "holds both network and weights"),
        ({"endpoint": {"rate": 2}}, "onnx:net.onnx is not a service"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_classifier("onnx:net.onnx", base_folder=tmp_path, **options)
    with pytest.raises(ModelError, match="its SHA-256 is"):
        load_classifier("onnx:net.onnx", base_folder=tmp_path, sha256="0" * 64)
    with pytest.raises(ModelError, match="has 4 outputs, but 7 classes are declared"):
        load_classifier("onnx:net.onnx", base_folder=tmp_path, num_classes=7)(IMAGES)
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"install '\.\[onnx\]' in the clone"):
        load_classifier("onnx:net.onnx", base_folder=tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="copies of a process need Linux")
def test_a_session_with_threads_is_made_anew_in_a_copy_of_the_process(tmp_path):
    write_linear_model(tmp_path / "net.onnx")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        classifier = load_classifier("onnx:net.onnx", base_folder=tmp_path)
        images = torch.rand(2, 3, 4, 4)
        expected = classifier(images)
        for _ in range(2):
            found = call_isolated(lambda: classifier(images), timeout=60)
            torch.testing.assert_close(found, expected)
    finally:
        torch.set_num_threads(before)
