"""ONNX files with gradients: what is converted, what is compared, and what stays a black box."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from onnx_samples import (
    build_matrix,
    build_network,
    onnx,
    quantize_network,
    write_linear_model,
    write_network,
)
from torch import Tensor

from robustbench_local.classifier import Classifier
from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.models import onnx_check
from robustbench_local.models.model_sources import load_classifier
from robustbench_local.models.onnx_check import ConversionCheck, check_conversion, make_check_inputs
from robustbench_local.models.onnx_graph.operator_table import OPERATORS

IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def load(file: Path, **options: object) -> Classifier:
    return load_classifier(f"onnx:{file.name}", base_folder=file.parent, sample_images=IMAGES, **options)


def ask_onnxruntime(file: Path, **options: object) -> Tensor:
    return load(file, access="scores", **options)(IMAGES)


def find_note(classifier: Classifier, part: str) -> str:
    return next((note for note in classifier.notes if part in note), "")


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        ({}, "answers and gradients of a conversion to torch; it differs from onnxruntime by at most"),
        ({"layout": "last"}, "takes channels last: images are transposed inside"),
        ({"batch": 1}, "the file takes exactly 1 image at a time, and its conversion any number"),
        ({"has_softmax": True}, "its final softmax is undone by a logarithm"),
        ({"has_softmax": True, "has_rounded_end": False}, "its final softmax is undone by a logarithm"),
        ({"flag": "training"}, "its input 'training' is set to false"),
    ],
)
def test_a_float_file_has_the_networks_answers_and_gradients(tmp_path: Path, kind: dict, note: str):
    file = write_network(tmp_path / "net.onnx", **kind)
    classifier, network = load(file), build_network()
    assert classifier.access == "gradients"
    assert find_note(classifier, note), classifier.notes
    expected, slope = _differentiate(network)
    found = classifier(IMAGES)
    assert torch.equal(found.argmax(dim=1), expected.argmax(dim=1))
    torch.testing.assert_close(_centre_scores(found), _centre_scores(expected), rtol=1e-4, atol=1e-5)
    _, _, gradient = classifier.compute_gradient(IMAGES, lambda logits: logits[:, 0] - logits[:, 1])
    torch.testing.assert_close(gradient, slope, rtol=1e-3, atol=1e-5)
    scores = ask_onnxruntime(file)
    torch.testing.assert_close(_centre_scores(scores), _centre_scores(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [("N", 48), ("N", 48, 1), (1, 48, 1), (3, 4, 4), (1, 3, 4, 4), (4, 4, 3)])
def test_images_are_arranged_as_the_file_wants_them(tmp_path: Path, shape: tuple):
    images = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    weights = build_matrix()
    if shape == (4, 4, 3):
        weights = weights.reshape(3, 4, 4, 4).transpose(1, 2, 0, 3).reshape(48, 4)
    write_linear_model(
        tmp_path / "net.onnx", shape=shape, weights=weights, is_batch=len(shape) != 3 or 48 in shape
    )
    for access in ("gradients", "scores"):
        options = {"base_folder": tmp_path, "image_shape": (3, 4, 4), "access": access}
        classifier = load_classifier("onnx:net.onnx", **options)
        expected = torch.from_numpy(images.flatten(1).numpy() @ build_matrix())
        torch.testing.assert_close(classifier(images), expected, rtol=1e-4, atol=1e-5)


def test_gray_images_without_a_channel_axis(tmp_path: Path):
    write_linear_model(tmp_path / "net.onnx", shape=("N", 6, 8))
    classifier = load_classifier("onnx:net.onnx", base_folder=tmp_path)
    images = torch.rand(2, 1, 6, 8, generator=torch.Generator().manual_seed(1))
    assert (classifier.channels, classifier.input_size) == (1, (6, 8))
    torch.testing.assert_close(
        classifier(images), torch.from_numpy(images.flatten(1).numpy() @ build_matrix())
    )


@pytest.mark.parametrize("way", ["static", "operators", "dynamic"])
def test_an_int8_file_is_a_black_box_unless_gradients_are_wanted(tmp_path: Path, way: str):
    file = quantize_network(tmp_path, way)
    box = load(file)
    assert box.access == "scores"
    assert find_note(box, "access: gradients follows straight-through gradients")
    assert bool(find_note(box, "they are given one by one")) == (way == "dynamic")
    straight = load(file, access="gradients")
    assert torch.equal(straight(IMAGES), box(IMAGES))  # answers are the file's, bit for bit
    logits, _, gradient = straight.compute_gradient(IMAGES, lambda logits: logits[:, 0] - logits[:, 1])
    assert torch.equal(logits, box(IMAGES))
    _, slope = _differentiate(build_network())
    cosine = torch.cosine_similarity(gradient.flatten(1), slope.flatten(1)).median()
    assert cosine > 0.9
    alone = torch.cat([box(image[None]) for image in IMAGES])
    torch.testing.assert_close(alone, box(IMAGES), rtol=0, atol=1e-6)


def test_rounded_probabilities_have_the_slopes_of_the_logits(tmp_path: Path):
    file = write_network(tmp_path / "net.onnx", has_softmax=True, has_rounded_end=True)
    straight, network = load(file, access="gradients"), build_network()
    _, _, gradient = straight.compute_gradient(IMAGES, lambda logits: logits[:, 0] - logits[:, 1])
    torch.testing.assert_close(gradient, _differentiate(network)[1], rtol=1e-3, atol=1e-5)
    steps = (straight(IMAGES).exp() / straight(IMAGES).exp().sum(dim=1, keepdim=True)) * 255
    torch.testing.assert_close(steps, network(IMAGES).softmax(dim=1) * 255, rtol=0, atol=1.5)


def test_pixels_in_bytes_are_rounded_inside(tmp_path: Path):
    file = write_network(tmp_path / "net.onnx", layout="last", takes_bytes=True)
    box = load(file)
    assert (box.access, box.normalization) == ("scores", None)
    assert find_note(box, "images are rounded to them inside")
    assert not find_note(box, "no normalization declared")
    on_grid = (IMAGES * 255).round() / 255
    torch.testing.assert_close(box(IMAGES), build_network()(on_grid).detach(), rtol=1e-4, atol=1e-5)
    straight = load(file, access="gradients")
    _, _, gradient = straight.compute_gradient(on_grid, lambda logits: logits[:, 0] - logits[:, 1])
    torch.testing.assert_close(gradient, _differentiate(build_network(), on_grid)[1], rtol=1e-3, atol=1e-4)
    assert (box.contract.value_scale, box.contract.input_size) == (255, (8, 8))
    with pytest.raises(ModelError, match=r"takes pixels as whole numbers.*Set normalize: none"):
        load(file, normalize=([0.5], [0.5]))(IMAGES)


def test_an_operator_without_conversion_makes_a_black_box_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = write_network(tmp_path / "net.onnx")
    monkeypatch.delitem(OPERATORS, "Conv")
    box = load(file)
    assert box.access == "scores"
    assert find_note(box, "a black box without gradients: no conversion to torch for Conv")
    with pytest.raises(ConfigError, match=r"no conversion to torch for Conv\. Set access: scores, or labels"):
        load(file, access="gradients")


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (lambda node, inputs: torch.relu(inputs[0]) * 1.01, "differs from onnxruntime by"),
        (
            lambda node, inputs: torch.relu(inputs[0]).detach() + 0.5 * (inputs[0] - inputs[0].detach()),
            "differ by",
        ),
        (lambda node, inputs: torch.relu(inputs[0]).detach(), "slopes of onnxruntime's scores"),
        (lambda node, inputs: inputs[0][:, :2], "the conversion to torch fails"),
    ],
)
def test_a_wrong_conversion_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: object, problem: str
):
    file = write_network(tmp_path / "net.onnx")
    monkeypatch.setitem(OPERATORS, "Relu", wrong)
    box = load(file)
    assert box.access == "scores"
    assert problem in find_note(box, "a black box without gradients")
    torch.testing.assert_close(box(IMAGES), build_network()(IMAGES).detach(), rtol=1e-4, atol=1e-4)


def test_the_limits_of_the_comparison():
    check = ConversionCheck(count=8, difference=0.1, share=0.00099, same_labels=8, slope_error=0.249)
    assert check.find_problem(is_half=False) is None
    assert "differs" in str(replace(check, share=0.00101).find_problem(is_half=False))
    assert replace(check, share=0.0199).find_problem(is_half=True) is None
    assert "differs" in str(replace(check, share=0.0201).find_problem(is_half=True))
    assert "label on 1 of 8 inputs" in str(replace(check, same_labels=7).find_problem(is_half=False))
    assert "slopes" in str(replace(check, slope_error=0.251).find_problem(is_half=False))
    assert "differs" in str(replace(check, share=float("nan")).find_problem(is_half=False))


def test_slopes_are_compared_along_the_gradient_and_across_it():
    network = build_network()

    class HalfBlind(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return network(torch.cat([images[:, :2], images[:, 2:].detach()], dim=1))

    inputs = make_check_inputs(IMAGES, (3, 8, 8), is_unit=False)
    assert len(inputs) == 20
    sound = check_conversion(network, lambda images: network(images).detach(), inputs, output=None)
    assert sound.slope_error < 0.05
    assert (sound.difference, sound.same_labels) == (0, 20)
    blind = check_conversion(HalfBlind(), lambda images: network(images).detach(), inputs, output=None)
    assert blind.slope_error > onnx_check.MAX_SLOPE_ERROR


def test_without_the_package_onnx_a_file_is_a_black_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = write_network(tmp_path / "net.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    box = load(file)
    assert box.access == "scores"
    assert find_note(box, "the package onnx is not installed; run pip install '.[onnx]' in the clone")


def test_a_file_in_half_precision_is_computed_in_single(tmp_path: Path):
    file = write_network(tmp_path / "net.onnx", dtype=onnx.TensorProto.FLOAT16)
    classifier = load(file)
    assert classifier.access == "gradients"
    torch.testing.assert_close(classifier(IMAGES), build_network()(IMAGES).detach(), rtol=0.02, atol=0.02)


def test_the_digest_is_that_of_the_graph(tmp_path: Path):
    digests = {
        load(write_network(tmp_path / f"{name}.onnx", **kind)).compute_digest()
        for name, kind in (("a", {}), ("b", {}), ("c", {"has_softmax": True}), ("d", {"layout": "last"}))
    }
    assert len(digests) == 3


def _differentiate(network: torch.nn.Module, images: Tensor = IMAGES) -> tuple[Tensor, Tensor]:
    leaf = images.clone().requires_grad_()
    logits = network(leaf)
    (slope,) = torch.autograd.grad((logits[:, 0] - logits[:, 1]).sum(), leaf)
    return logits.detach(), slope


def _centre_scores(logits: Tensor) -> Tensor:
    return logits.detach() - logits.detach().mean(dim=1, keepdim=True)
