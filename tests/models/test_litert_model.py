"""LiteRT files: float, quantized and half-precision answers, metadata, other layouts, damaged files."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from litert_samples import (
    append_files,
    build_linear_file,
    build_metadata,
    build_signs_file,
    quantize,
    schema,
    write,
)

from robustbench_local.data.data_sources import load_dataset
from robustbench_local.errors import ConfigError, ModelError, RefusedError
from robustbench_local.evaluation.isolation.isolated_call import call_isolated
from robustbench_local.models.litert_file import MAX_LABEL_BYTES
from robustbench_local.models.model_sources import load_classifier

pytestmark = pytest.mark.extra

IMAGES = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
MATRIX = np.random.default_rng(7).normal(size=(48, 4)).astype(np.float32)
LAST = IMAGES.permute(0, 2, 3, 1).reshape(5, -1).numpy()
NORMALIZATION = ((0.4,) * 3, (0.25,) * 3)


@pytest.fixture(scope="module")
def signs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, labels, and the scores of the network that the files below hold."""
    data = load_dataset("signs", limit=60)
    with torch.no_grad():
        return data.images, data.labels, load_classifier("zoo:signs-plain")(data.images)


def test_a_float_file_of_the_shipped_network_has_its_scores(tmp_path: Path, signs):
    images, _, expected = signs
    write(tmp_path / "net.tflite", build_signs_file())
    write(tmp_path / "softmax.tflite", build_signs_file(with_softmax=True))
    found = load_classifier("litert:net.tflite", base_folder=tmp_path, normalize=NORMALIZATION)
    torch.testing.assert_close(found(images), expected, rtol=1e-4, atol=1e-4)
    assert (found.access, found.num_classes, found.channels, found.input_size) == ("scores", 43, 3, (32, 32))
    assert found.provenance["input"] == "float32 (1, 32, 32, 3)"
    assert found.count_parameters() is None
    # The softmax of these scores is 1 in float32; its logarithms still have the margins of the logits.
    softmax = load_classifier("litert:softmax.tflite", base_folder=tmp_path, normalize=NORMALIZATION)
    scores = softmax(images)
    torch.testing.assert_close(scores, expected - expected.amax(1, keepdim=True), rtol=1e-3, atol=1e-3)
    assert any("ends in a softmax" in note for note in softmax.notes)
    assert len({found.compute_digest(), softmax.compute_digest()}) == 2


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_a_fully_quantized_file_gets_bytes_and_its_scores_are_dequantized(tmp_path: Path, signs, dtype):
    images, labels, expected = signs
    content = quantize(build_signs_file(), (images - 0.4) / 0.25, dtype)
    write(tmp_path / "net.tflite", content)
    found = load_classifier("litert:net.tflite", base_folder=tmp_path)
    scores = found(images)
    assert (scores.argmax(1) == labels).float().mean() >= 0.95
    assert (scores - expected).abs().max() < 2
    levels = scores.unique().diff().min()  # scores are whole numbers of steps
    torch.testing.assert_close(scores / levels, (scores / levels).round(), rtol=0, atol=1e-2)
    # Without a declaration, pixel k / 255 is the byte k; the normalization that means is this network's own.
    torch.testing.assert_close(
        torch.tensor(found.normalization), torch.tensor([[0.4], [0.25]]), rtol=0, atol=2e-3
    )
    declared = load_classifier("litert:net.tflite", base_folder=tmp_path, normalize=NORMALIZATION)
    assert (declared(images) == scores).float().mean() > 0.99
    assert any(f"its input is {np.dtype(dtype)}" in note for note in found.notes)
    assert any("has 256 levels" in note for note in found.notes)


def test_a_quantized_softmax_loses_no_more_than_its_step(tmp_path: Path, signs):
    images, _, expected = signs
    content = quantize(build_signs_file(with_softmax=True), (images - 0.4) / 0.25)
    write(tmp_path / "net.tflite", content)
    scores = load_classifier("litert:net.tflite", base_folder=tmp_path)(images)
    assert torch.equal(scores.argmax(1), expected.argmax(1))
    floor = np.log(0.5 / 255)  # half a step of 1/256 below a probability of 255/256
    torch.testing.assert_close(scores.min(), torch.tensor(floor).float(), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("dtype", "quantization", "scale", "shift"),
    [
        (np.uint8, (1 / 255, 0), 1, 0),
        (np.int8, (1 / 255, -128), 1, 0),
        (np.uint8, (2 / 255, 128), 2, -256 / 255),
        (np.uint8, (1.0, 0), 255, 0),
        (np.int8, (0.02, 3), 5.1, -2.62),
    ],
)
def test_bytes_reach_an_integer_input_whatever_its_quantization(tmp_path, dtype, quantization, scale, shift):
    build = build_linear_file(matrix=MATRIX, dtype=dtype, quantization=quantization)
    write(tmp_path / "net.tflite", build.pack())
    found = load_classifier("litert:net.tflite", base_folder=tmp_path)
    expected = (np.rint(LAST * 255) / 255 * scale + shift) @ MATRIX
    torch.testing.assert_close(found(IMAGES), torch.from_numpy(expected), rtol=1e-4, atol=2e-3)
    extremes = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    expected = np.array([[shift], [scale + shift]]) * MATRIX.sum(axis=0)
    torch.testing.assert_close(found(extremes), torch.from_numpy(expected).float(), rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize(
    ("shape", "signature", "fixed"),
    [
        ((1, 4, 4, 3), None, None),
        ((1, 4, 4, 3), [-1, 4, 4, 3], None),
        ((3, 4, 4, 3), None, 3),
        ((1, 3, 4, 4), None, None),
        ((1, 1, 1, 3), [-1, -1, -1, 3], None),
    ],
)
def test_other_layouts_batches_and_open_sizes_give_the_same_scores(tmp_path, shape, signature, fixed):
    build = build_linear_file(matrix=MATRIX, shape=shape, signature=signature)
    write(tmp_path / "net.tflite", build.pack())
    found = load_classifier("litert:net.tflite", base_folder=tmp_path, num_classes=4)
    flat = IMAGES.flatten(1).numpy() if shape[1] == 3 else LAST
    torch.testing.assert_close(found(IMAGES), torch.from_numpy(flat @ MATRIX), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found(IMAGES[:1]), found(IMAGES)[:1], rtol=0, atol=0)
    assert any(f"exactly {fixed} images" in note for note in found.notes) == (fixed is not None)
    assert found.input_size == (None if shape[1] == 1 else (4, 4))
    assert any("in [0, 1]" in note for note in found.notes)


def test_one_of_several_outputs_has_to_be_named(tmp_path: Path):
    build = build_linear_file(matrix=MATRIX, with_softmax=True, with_label=True)
    write(tmp_path / "net.tflite", build.pack())
    expected = torch.from_numpy(LAST @ MATRIX)
    for output in ("probabilities", 0):
        scores = load_classifier("litert:net.tflite", base_folder=tmp_path, output=output)(IMAGES)
        margins = expected - expected.amax(1, keepdim=True)
        torch.testing.assert_close(scores, margins, rtol=1e-4, atol=1e-4)
    options = {"base_folder": tmp_path, "access": "labels", "num_classes": 4}
    labels = load_classifier("litert:net.tflite", output="label", **options)
    assert torch.equal(labels(IMAGES).argmax(1), expected.argmax(1))
    with pytest.raises(ModelError, match=r"it has probabilities \(5, 4\), label \(5,\)"):
        load_classifier("litert:net.tflite", **options)(IMAGES)


def test_metadata_give_normalization_and_class_names(tmp_path: Path):
    names = "stop\ngive way\nno entry\nroundabout\n"
    build = build_linear_file(matrix=MATRIX)
    build.add_metadata("TFLITE_METADATA", build_metadata(mean=[127.5], std=[127.5], labels="labels.txt"))
    write(tmp_path / "net.tflite", append_files(build.pack(), {"labels.txt": names}))
    found = load_classifier("litert:net.tflite", base_folder=tmp_path)
    assert found.class_names == tuple(names.splitlines())
    torch.testing.assert_close(found(IMAGES), torch.from_numpy((2 * LAST - 1) @ MATRIX), rtol=1e-4, atol=1e-4)
    assert not any("no normalization" in note for note in found.notes)
    write(tmp_path / "few.tflite", append_files(build.pack(), {"labels.txt": "stop\n"}))
    found = load_classifier("litert:few.tflite", base_folder=tmp_path)
    assert found.class_names is None
    assert "has 1 class name for 4 classes: they are not used" in found.notes


@pytest.mark.parametrize(
    ("metadata", "files", "problem"),
    [
        ({"mean": [0.0], "std": [1.0]}, {}, None),
        ({"mean": [127.5], "std": [0.0]}, {}, "it has the means"),
        ({"labels": "labels.txt"}, {"other.txt": "a"}, "is not attached"),
        ({"labels": "labels.txt"}, {}, "its metadata cannot be read"),
        ({"labels": "labels.txt"}, {"labels.txt": "a" * (MAX_LABEL_BYTES + 1)}, "is too large"),
        (b"M001", {}, "lacks the identifier"),
        (b"\xff\xff\xff\xffM001", {}, "leads out of the file"),
    ],
)
def test_metadata_that_say_nothing_or_are_damaged_are_left_out(tmp_path, metadata, files, problem):
    build = build_linear_file(matrix=MATRIX)
    content = metadata if isinstance(metadata, bytes) else build_metadata(**metadata)
    build.add_metadata("TFLITE_METADATA", content)
    write(tmp_path / "net.tflite", append_files(build.pack(), files) if files else build.pack())
    found = load_classifier("litert:net.tflite", base_folder=tmp_path)
    assert found.normalization is None
    assert any("its metadata cannot be read" in note for note in found.notes) == (problem is not None)
    assert problem is None or any(problem in note for note in found.notes)


def test_a_custom_operator_and_other_files_are_named(tmp_path: Path):
    build = build_linear_file(matrix=MATRIX)
    scores = build.graph.outputs[0]
    result = build.add_tensor((1, 4))
    build.add_operator("FlexErf", [scores], [result])
    build.graph.outputs = [result]
    write(tmp_path / "net.tflite", build.pack())
    with pytest.raises(ModelError, match=r"net.tflite: needs FlexErf, which LiteRT does not bring. Convert"):
        load_classifier("litert:net.tflite", base_folder=tmp_path)
    build = build_linear_file(matrix=MATRIX)
    build.model.externalBuffers = [schema.ExternalBufferT()]
    write(tmp_path / "parts.tflite", build.pack())
    with pytest.raises(RefusedError, match="its tensors lie in other files"):
        load_classifier("litert:parts.tflite", base_folder=tmp_path)


def test_damaged_files_and_other_content_end_in_one_line(tmp_path: Path):
    content = build_linear_file(matrix=MATRIX).pack()
    parts = [content[:size] for size in range(0, len(content), 97)]
    parts += [b"\x00" * 8, b"PK\x03\x04" * 9, content[:4] + b"TFL2" + content[8:], b"\xff" * 4 + content[4:]]
    generator = np.random.default_rng(3)
    for _ in range(60):
        damaged = bytearray(content)
        for place in generator.integers(8, 400, 3):
            damaged[place] = generator.integers(256)
        parts.append(bytes(damaged))

    def load(part: bytes) -> str:
        write(tmp_path / "net.tflite", part)
        try:
            load_classifier("litert:net.tflite", base_folder=tmp_path, num_classes=4)(IMAGES)
        except ModelError as error:
            return str(error)
        return ""

    messages = [load(part) for part in parts]
    assert sum(map(bool, messages)) > len(parts) // 3
    assert all("\n" not in message and (not message or "net.tflite" in message) for message in messages)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"access": "gradients"}, "gives no gradients. Set access: scores, or labels"),
        ({"weights": "w.pt"}, "holds both network and weights"),
        ({"sha256": "0" * 64}, "its SHA-256 is"),
        ({"num_classes": 7}, "has 4 outputs, but 7 classes are declared"),
    ],
)
def test_what_makes_no_sense_for_a_file_is_refused(tmp_path: Path, options: dict, message: str):
    write(tmp_path / "net.tflite", build_linear_file(matrix=MATRIX).pack())
    with pytest.raises((ConfigError, ModelError), match=message):
        load_classifier("litert:net.tflite", base_folder=tmp_path, **options)(IMAGES)


def test_inputs_that_are_no_images_are_refused(tmp_path: Path):
    for shape, message in (((1, 48), r"takes \(1, 48\), not images"), ((1, 4, 4, 3, 1), "not images")):
        write(tmp_path / "net.tflite", build_linear_file(matrix=MATRIX, shape=shape).pack())
        with pytest.raises(ModelError, match=message):
            load_classifier("litert:net.tflite", base_folder=tmp_path)
    build = build_linear_file(matrix=MATRIX)
    build.graph.inputs.append(build.add_tensor((1, 4), name="extra"))
    write(tmp_path / "net.tflite", build.pack())
    with pytest.raises(ModelError, match=r"takes 2 inputs \(images, extra\)"):
        load_classifier("litert:net.tflite", base_folder=tmp_path)


def test_a_missing_runtime_and_another_name_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "net.tflite", build_linear_file(matrix=MATRIX).pack())
    with pytest.raises(
        ConfigError, match=r"unknown model source 'tflite:net.tflite'. Write litert:net.tflite"
    ):
        load_classifier("tflite:net.tflite", base_folder=tmp_path)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(ConfigError, match=r"install '\.\[litert\]' in the clone"):
        load_classifier("litert:net.tflite", base_folder=tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="copies of a process need Linux")
def test_a_copy_of_the_process_gets_an_interpreter_of_its_own(tmp_path: Path, capfd):
    write(tmp_path / "net.tflite", build_linear_file(matrix=MATRIX).pack())
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        classifier = load_classifier("litert:net.tflite", base_folder=tmp_path)
        expected = classifier(IMAGES)
        for _ in range(2):
            assert torch.equal(call_isolated(lambda: classifier(IMAGES), timeout=60), expected)
    finally:
        torch.set_num_threads(before)
    assert "XNNPACK" not in capfd.readouterr().err
