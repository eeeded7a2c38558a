"""Networks that OpenVINO computes: exact answers, layouts, bytes, the maker's entries, damaged files."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustbench_local.data.data_sources import load_dataset
from robustbench_local.errors import ConfigError, ModelError, RefusedError
from robustbench_local.evaluation.isolation.isolated_call import call_isolated
from robustbench_local.models.model_sources import load_classifier

pytestmark = pytest.mark.extra
openvino = pytest.importorskip("openvino", reason="needs the extra .[openvino]")
ops = pytest.importorskip("openvino.opset13", reason="needs the extra .[openvino]")

IMAGES = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
MATRIX = np.random.default_rng(7).normal(size=(48, 4)).astype(np.float32)
FIRST = IMAGES.flatten(1).numpy()
LAST = IMAGES.permute(0, 2, 3, 1).reshape(5, -1).numpy()


def write_network(
    path: Path,
    *,
    shape: tuple[int, ...] = (-1, 3, 4, 4),
    kind: Any = np.float32,
    layout: str | None = None,
    outputs: tuple[str, ...] = ("scores",),
    info: dict[str, str] | None = None,
    levels: int | None = None,
) -> Path:
    """Write flattened images @ MATRIX, with these outputs of scores, probabilities and label."""
    images = ops.parameter(list(shape), kind, name="images")
    images.output(0).set_names({"images"})
    if layout is not None:
        images.set_layout(openvino.Layout(layout))
    floats = images if kind is np.float32 else ops.convert(images, np.float32)
    if levels is not None:
        floats = ops.fake_quantize(floats, *(np.float32(value) for value in (0, 1, 0, 1)), levels)
    flat = ops.reshape(floats, np.array([-1, 48]), special_zero=False)
    scores = ops.matmul(flat, ops.constant(MATRIX), transpose_a=False, transpose_b=False)
    parts = {
        "scores": scores,
        "probabilities": ops.softmax(scores, 1),
        "label": ops.squeeze(ops.topk(scores, np.int64(1), 1, "max", "none").output(1), np.array([1])),
        "spread": ops.unsqueeze(ops.unsqueeze(scores, np.array(2)), np.array(3)),
    }
    results = []
    for name in outputs:
        results.append(ops.result(parts[name]))
        results[-1].output(0).set_names({name})
    network = openvino.Model(results, [images], "linear")
    for key, value in (info or {}).items():
        network.set_rt_info(value, ["model_info", key])
    openvino.save_model(network, path, compress_to_fp16=False)
    return path


def load(folder: Path, source: str = "openvino:net.xml", **options: Any):
    return load_classifier(source, base_folder=folder, **options)


def test_the_shipped_network_has_its_scores_through_onnx_and_openvinos_own_format(tmp_path: Path):
    pytest.importorskip("onnx", reason="needs onnx, a test dependency, to export")
    shipped, images = load_classifier("zoo:signs-plain"), load_dataset("signs", limit=20).images
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter, which is not tested here
        export = {"input_names": ["images"], "output_names": ["scores"], "dynamo": False}
        axes = {"images": {0: "N"}, "scores": {0: "N"}}
        file = tmp_path / "net.onnx"
        torch.onnx.export(shipped.module, torch.rand(1, 3, 32, 32), file, dynamic_axes=axes, **export)
    openvino.save_model(openvino.Core().read_model(tmp_path / "net.onnx"), tmp_path / "half.xml")
    with torch.no_grad():
        expected = shipped(images)
    digests = set()
    for file, error in (("net.onnx", 1e-4), ("half.xml", 0.05)):  # weights in half precision are the default
        found = load(tmp_path, f"openvino:{file}", normalize=shipped.normalization)
        scores = found(images)
        torch.testing.assert_close(scores, expected, rtol=0, atol=error)
        assert torch.equal(torch.cat([found(image[None]) for image in images]), scores)
        assert (found.num_classes, found.input_size, found.access) == (43, (32, 32), "scores")
        digests.add(found.compute_digest())
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("shape", "layout", "is_last"),
    [
        ((-1, 3, 4, 4), None, False),
        ((2, 3, 4, 4), "NCHW", False),
        ((-1, 4, 4, 3), None, True),
        ((1, 4, 4, 3), "[N,H,W,C]", True),
        ((-1, 3, -1, -1), "NCHW", False),
    ],
)
def test_layouts_and_batches_give_the_same_scores(tmp_path: Path, shape, layout, is_last):
    write_network(tmp_path / "net.xml", shape=shape, layout=layout)
    found = load(tmp_path)
    expected = torch.from_numpy((LAST if is_last else FIRST) @ MATRIX)
    torch.testing.assert_close(found(IMAGES), expected, rtol=1e-5, atol=1e-5)
    assert found.num_classes == 4
    assert found.channels == 3
    assert any("exactly 2 images" in note for note in found.notes) == (shape[0] == 2)
    assert any("computed in float32" in note for note in found.notes)
    assert found.input_size == (None if shape[2] == -1 else (4, 4))


@pytest.mark.parametrize("kind", [np.uint8, np.float16, np.int32])
def test_bytes_and_half_precision_are_taken(tmp_path: Path, kind: Any):
    write_network(tmp_path / "net.xml", shape=(-1, 4, 4, 3), kind=kind)
    found = load(tmp_path)
    whole = np.rint(LAST * 255) if kind is not np.float16 else LAST
    assert found.contract.value_scale == (255 if kind is not np.float16 else 1)
    expected = torch.from_numpy(whole @ MATRIX)
    torch.testing.assert_close(found(IMAGES), expected, rtol=1e-3, atol=5e-3)
    assert any("bytes 0 to 255" in note for note in found.notes) == (kind is not np.float16)


def test_the_makers_entries_are_followed(tmp_path: Path):
    info = {
        "labels": "stop give_way no_entry roundabout",
        "mean_values": "123.675 116.28 103.53",
        "scale_values": "58.395 57.12 57.375",
        "reverse_input_channels": "True",
    }
    write_network(tmp_path / "net.xml", info=info)
    found = load(tmp_path)
    assert found.class_names == ("stop", "give_way", "no_entry", "roundabout")
    mean, std = (
        np.array([float(value) for value in info[key].split()]) for key in ("mean_values", "scale_values")
    )
    blue_first = (IMAGES.numpy()[:, ::-1] * 255 - mean[:, None, None]) / std[:, None, None]
    expected = torch.from_numpy((blue_first.reshape(5, -1) @ MATRIX).astype(np.float32))
    torch.testing.assert_close(found(IMAGES), expected, rtol=1e-4, atol=1e-4)
    for key, value in (("embedded_processing", "True"), ("scale_values", "0 0 0"), ("mean_values", "1 2")):
        write_network(tmp_path / "net.xml", info=info | {"reverse_input_channels": "False", key: value})
        torch.testing.assert_close(
            load(tmp_path)(IMAGES), torch.from_numpy(FIRST @ MATRIX), rtol=1e-5, atol=1e-5
        )


def test_outputs_are_named_softmaxes_become_logarithms_and_quantization_is_noted(tmp_path: Path):
    write_network(tmp_path / "net.xml", outputs=("probabilities", "label", "spread"), levels=256)
    expected = torch.from_numpy((np.rint(FIRST * 255) / 255) @ MATRIX)
    margins = expected - expected.amax(1, keepdim=True)
    found = load(tmp_path, output="probabilities")
    torch.testing.assert_close(found(IMAGES), margins, rtol=1e-3, atol=1e-3)
    assert any("ends in a softmax" in note for note in found.notes)
    assert any("is quantized" in note for note in found.notes)
    torch.testing.assert_close(load(tmp_path, output=2)(IMAGES), expected, rtol=1e-3, atol=1e-3)
    labels = load(tmp_path, output="label", access="labels", num_classes=4)
    assert torch.equal(labels(IMAGES).argmax(1), expected.argmax(1))


def test_the_digest_follows_both_files(tmp_path: Path):
    write_network(tmp_path / "net.xml")
    digests = {load(tmp_path).compute_digest()}
    content = (tmp_path / "net.bin").read_bytes()
    (tmp_path / "net.bin").write_bytes(content.replace(MATRIX.tobytes(), (2 * MATRIX).tobytes()))
    found = load(tmp_path)
    torch.testing.assert_close(found(IMAGES), torch.from_numpy(FIRST @ (2 * MATRIX)), rtol=1e-5, atol=1e-5)
    write_network(tmp_path / "other.xml", outputs=("probabilities",))
    digests |= {found.compute_digest(), load(tmp_path, "openvino:other.xml").compute_digest()}
    assert len(digests) == 3
    assert "version of openvino" in found.describe_parts()


def test_damaged_missing_and_foreign_files_end_in_one_line(tmp_path: Path):
    write_network(tmp_path / "net.xml")
    text, weights = (tmp_path / "net.xml").read_text(), (tmp_path / "net.bin").read_bytes()
    for broken, tensors, message in (
        (text[: len(text) // 2], weights, "OpenVINO cannot load it"),
        (text, weights[:100], "OpenVINO cannot load it: Incorrect weights in bin file"),
        (
            text.replace('type="MatMul"', 'type="Evil"'),
            weights,
            "doesn't contain the operation with type: Evil",
        ),
        ("not xml", weights, "OpenVINO cannot load it"),
        (text, b"", "net.bin: the file is empty"),
    ):
        (tmp_path / "net.xml").write_text(broken)
        (tmp_path / "net.bin").write_bytes(tensors)
        with pytest.raises(ModelError, match=message) as error:
            load(tmp_path)
        assert "\n" not in str(error.value)
    (tmp_path / "net.xml").write_text(text)
    (tmp_path / "net.bin").unlink()
    with pytest.raises(ModelError, match=r"its weights, net.bin, are not beside it. Copy both files"):
        load(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "net.xml").write_text(text)
    (tmp_path / "secret").write_bytes(weights)
    (tmp_path / "folder" / "net.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(RefusedError, match="are a link out of its folder"):
        load(tmp_path / "folder")
    (tmp_path / "net.onnx").write_bytes(b"\x0b")
    with pytest.raises(ModelError, match="is not an ONNX file"):
        load(tmp_path, "openvino:net.onnx")
    (tmp_path / "net.tflite").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"reads .xml and .onnx files here. Write litert:net.tflite"):
        load(tmp_path, "openvino:net.tflite")


def test_what_makes_no_sense_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_network(tmp_path / "net.xml", shape=(-1, 48))
    with pytest.raises(ModelError, match=r"takes \(\?, 48\), not images"):
        load(tmp_path)
    write_network(tmp_path / "net.xml", kind=np.int16)
    with pytest.raises(ModelError, match="takes i16, not floats or bytes"):
        load(tmp_path)
    parts = [ops.parameter([1, 4, 4, 3], np.float32, name=name) for name in ("left", "right")]
    for part, name in zip(parts, ("left", "right"), strict=True):
        part.output(0).set_names({name})
    total = ops.multiply(ops.add(*parts), ops.constant(MATRIX[:1, :3]))
    openvino.save_model(openvino.Model([ops.result(total)], parts), tmp_path / "net.xml")
    with pytest.raises(ModelError, match=r"takes 2 inputs \((left, right|right, left)\)"):
        load(tmp_path)
    write_network(tmp_path / "net.xml", outputs=("scores", "probabilities"))
    with pytest.raises(ModelError, match=r"does not state its number of classes\. Set num_classes"):
        load(tmp_path)
    write_network(tmp_path / "net.xml")
    with pytest.raises(ConfigError, match="holds both network and weights"):
        load(tmp_path, weights="w.pt")
    with pytest.raises(ConfigError, match="gives no gradients"):
        load(tmp_path, access="gradients")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"install '\.\[openvino\]' in the clone"):
        load(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="copies of a process need Linux")
def test_copies_of_the_process_go_on_asking_the_network(tmp_path: Path):
    write_network(tmp_path / "net.xml")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        classifier = load(tmp_path)
        expected = classifier(IMAGES)
        for count in (5, 2):
            found = call_isolated(lambda count=count: classifier(IMAGES[:count]), timeout=60)
            assert torch.equal(found, expected[:count])
    finally:
        torch.set_num_threads(before)
