"""Quantized modules: access by trying, dynamic scales, observers, an identity that sees packed weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from program_samples import IMAGES, build_network, save_traced
from torch import Tensor, nn
from torch.ao import quantization

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.tensor_identity import describe_tensor
from robustbench_local.errors import ModelError
from robustbench_local.evaluation.probes.consistency_policy import check_consistency
from robustbench_local.evaluation.probes.consistency_probe import probe_consistency
from robustbench_local.models.loaded_model import LoadedModel, ModelRequest
from robustbench_local.models.model_sources import load_classifier
from robustbench_local.models.model_trial import NO_GRADIENTS_NOTE, ZERO_GRADIENTS_NOTE, try_model
from robustbench_local.models.program_operators import is_dynamically_quantized, is_quantized
from robustbench_local.models.quantized_models import DYNAMIC_NOTE, FAKE_QUANTIZED_NOTE, find_quantized_access

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*quantiz", "ignore:.*linear_dynamic", "ignore:.*reduce_range", "ignore:.*isinstance"
)
REQUEST = ModelRequest(default_classes=4, image_shape=(3, 8, 8))


class Stubs(nn.Module):
    """A network between the places where its values are rounded and restored."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.enter, self.network, self.leave = quantization.QuantStub(), network, quantization.DeQuantStub()

    def forward(self, images: Tensor) -> Tensor:
        return self.leave(self.network(self.enter(images)))


def quantize_statically(seed: int = 0) -> nn.Module:
    model = Stubs(build_network(seed=seed)).eval()
    model.qconfig = quantization.get_default_qconfig("x86")
    model.network[1] = nn.Identity()  # a batch norm has no quantized form of its own here
    with warnings.catch_warnings(action="ignore"):
        prepared = quantization.prepare(model)
        prepared(IMAGES)
        return quantization.convert(prepared)


def quantize_dynamically() -> nn.Module:
    with warnings.catch_warnings(action="ignore"):
        return quantization.quantize_dynamic(build_network(), {nn.Linear}, dtype=torch.qint8)


def imitate_quantization(*, observes: bool) -> nn.Module:
    model = Stubs(build_network()).train()
    model.qconfig = quantization.get_default_qat_qconfig("x86")
    with warnings.catch_warnings(action="ignore"):
        prepared = quantization.prepare_qat(model).eval()
        prepared(IMAGES)
    if not observes:
        prepared.apply(quantization.disable_observer)
    return prepared


class Each(nn.Module):
    """A dynamically quantized network that is asked about one image at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.network = quantize_dynamically()

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.network(image[None]) for image in images])


class Steps(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)).mul(16).round()


@pytest.mark.parametrize(
    ("make", "access", "note"),
    [
        (quantize_statically, "scores", NO_GRADIENTS_NOTE),
        (quantize_dynamically, "scores", NO_GRADIENTS_NOTE),
        (lambda: imitate_quantization(observes=False), "gradients", FAKE_QUANTIZED_NOTE),
        (build_network, None, ""),
    ],
    ids=["static", "dynamic", "fake", "float"],
)
def test_the_access_of_a_quantized_module_is_found_by_trying(
    make: Any, access: str | None, note: str
) -> None:
    model = make()
    assert is_quantized(model) == bool(note)
    loaded = LoadedModel(model=model, num_classes=4)
    find_quantized_access(loaded, REQUEST, where="net")
    assert loaded.access == access
    assert loaded.notes == [note] if note else loaded.notes == []
    declared = LoadedModel(model=model, num_classes=4)
    find_quantized_access(declared, ModelRequest(access="labels"), where="net")
    assert declared.access is None


def test_zero_gradients_are_an_accident_unless_values_are_rounded() -> None:
    for is_rounded, access in ((True, "scores"), (False, "gradients")):
        trial = try_model(Steps(), IMAGES, output=None, where="net", is_quantized=is_rounded)
        assert (trial.num_outputs, trial.access) == (3, access)
        assert trial.notes == ((ZERO_GRADIENTS_NOTE,) if is_rounded else ())


def test_a_dynamic_scale_is_seen_and_what_to_do_is_said() -> None:
    model = quantize_dynamically()
    assert is_dynamically_quantized(model)
    found = probe_consistency(Classifier(model, num_classes=4, access="scores"), IMAGES)
    assert (found.kind, "its dynamic quantization takes one scale" in found.cause) == ("company", True)
    with pytest.raises(ModelError, match=r"Quantize it statically, let its forward ask about one image at a"):
        check_consistency(Classifier(model, num_classes=4, access="scores"), IMAGES)
    for sound in (Each(), quantize_statically()):
        assert probe_consistency(Classifier(sound, num_classes=4, access="scores"), IMAGES).is_consistent


def test_a_loaded_one_is_asked_about_one_image_at_a_time(tmp_path: Path) -> None:
    model = quantize_dynamically()
    save_traced(tmp_path / "net.pt", model)
    classifier = load_classifier("torchscript:net.pt", base_folder=tmp_path, allow_code=True)
    assert DYNAMIC_NOTE in classifier.notes
    torch.testing.assert_close(classifier(IMAGES), Each()(IMAGES))
    assert probe_consistency(classifier, IMAGES).is_consistent


def test_observers_that_still_watch_are_named() -> None:
    with pytest.raises(
        ModelError, match=r"remembers: .*model.apply\(torch.ao.quantization.disable_observer\)"
    ):
        check_consistency(Classifier(imitate_quantization(observes=True), num_classes=4), IMAGES)
    check_consistency(Classifier(imitate_quantization(observes=False), num_classes=4), IMAGES)


def test_packed_weights_are_a_part_of_the_identity(tmp_path: Path) -> None:
    def change_one_weight(model: nn.Module) -> nn.Module:
        layer = model.network[5]
        weight, bias = layer._weight_bias()
        levels = weight.int_repr()
        levels[1, 100] += 1 if levels[1, 100] < 127 else -1
        scales, points = weight.q_per_channel_scales(), weight.q_per_channel_zero_points()
        layer.set_weight_bias(torch._make_per_channel_quantized_tensor(levels, scales, points, 0), bias)
        return model

    models = [quantize_statically(), quantize_statically(), change_one_weight(quantize_statically())]
    digests = [Classifier(model, num_classes=4).compute_digest() for model in models]
    assert digests[0] == digests[1] != digests[2]
    for index, model in enumerate(models):
        save_traced(tmp_path / f"{index}.pt", model)
    with warnings.catch_warnings(action="ignore"):
        programs = [torch.jit.load(tmp_path / f"{index}.pt") for index in range(3)]
    digests = [Classifier(program, num_classes=4).compute_digest() for program in programs]
    assert digests[0] == digests[1] != digests[2]


class Pair(Tensor):
    """A tensor that consists of two, as torchao's are; most operators do not know it."""

    def __new__(cls, first: Tensor, scale: float) -> Tensor:
        made = Tensor._make_wrapper_subclass(cls, first.shape, dtype=torch.float32)
        made.first, made.scale = first, scale
        return made

    def __tensor_flatten__(self) -> tuple[list[str], float]:
        return ["first"], self.scale

    @classmethod
    def __torch_dispatch__(cls, operator, *_args, **_options):
        raise NotImplementedError(str(operator))


def test_a_tensor_of_tensors_is_described_by_its_parts() -> None:
    levels = torch.zeros(64, 64, dtype=torch.int8)
    changed = levels.clone()
    changed[30, 30] = 1
    digests = [describe_tensor(Pair(*parts)) for parts in ((levels, 0.1), (changed, 0.1), (levels, 0.2))]
    assert len(set(digests)) == 3
    assert describe_tensor(Pair(levels.clone(), 0.1)) == digests[0]
    assert describe_tensor(changed.float().to_sparse()) != describe_tensor(levels.float().to_sparse())
    assert describe_tensor(torch.empty(2, 3, device="meta")) == "tensor (2, 3) torch.float32 without values"


@pytest.mark.parametrize("per_channel", [True, False])
def test_quantized_tensors_differ_by_one_level_and_by_their_scale(per_channel: bool) -> None:
    def digest(levels: Tensor, scale: float) -> str:
        model = nn.Identity()
        if per_channel:
            scales = torch.full((len(levels),), scale, dtype=torch.float64)
            value = torch._make_per_channel_quantized_tensor(
                levels, scales, torch.zeros(len(levels)).long(), 0
            )
        else:
            value = torch._make_per_tensor_quantized_tensor(levels, scale, 0)
        model.register_buffer("held", value)
        return Classifier(model, num_classes=4).compute_digest()

    levels = torch.zeros(64, 64, dtype=torch.int8)
    changed = levels.clone()
    changed[30, 30] = 1
    assert digest(levels, 0.1) == digest(levels.clone(), 0.1)
    assert len({digest(levels, 0.1), digest(changed, 0.1), digest(levels, 0.2)}) == 3
