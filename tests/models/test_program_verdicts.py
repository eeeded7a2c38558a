"""Real networks as exported files: the same verdicts as the originals, image by image; int8 close to them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from program_samples import save_traced
from torch import Tensor, nn
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

import robustbench_local as rbl
from robustbench_local.classifier import Classifier

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*quantiz", "ignore:.*reduce_range")]
IMAGES = 16


def load_signs(_: Path) -> tuple[Classifier, Tensor, Tensor]:
    data = rbl.load_dataset("signs", limit=IMAGES, seed=3)
    return rbl.load_classifier("zoo:signs-plain"), data.images, data.labels


def load_photographs(folder: Path) -> tuple[Classifier, Tensor, Tensor]:
    archive = np.load(folder / "cifar10_test_strat1000.npz", allow_pickle=False)
    images = torch.from_numpy(archive["x"][::60][:IMAGES]).permute(0, 3, 1, 2).float() / 255
    file = folder / "checkpoints" / "cifar10_resnet2b_vnncomp21.safetensors"
    labels = torch.from_numpy(archive["y"][::60][:IMAGES]).long()
    return rbl.load_classifier(f"checkpoint:{file}", architecture="cifar10_resnet2b"), images, labels


def export(network: nn.Module, images: Tensor, folder: Path) -> list[str]:
    """Save a network in each way, and return the sources."""
    batch = ({0: torch.export.Dim("n")},)
    with warnings.catch_warnings(action="ignore"):  # about weights in another layout than their storage
        torch.export.save(torch.export.export(network, (images,), dynamic_shapes=batch), folder / "free.pt2")
        torch.export.save(torch.export.export(network, (images[:5],)), folder / "five.pt2")
    save_traced(folder / "traced.pt", network, images[:2])
    return [
        f"export:{folder / 'free.pt2'}",
        f"export:{folder / 'five.pt2'}",
        f"torchscript:{folder / 'traced.pt'}",
    ]


@pytest.mark.parametrize("load", [load_signs, load_photographs])
def test_verdicts_through_every_export_are_the_originals(
    load: Callable[[Path], tuple[Classifier, Tensor, Tensor]], shared_data: Path, tmp_path: Path
) -> None:
    original, images, labels = load(shared_data)
    sources = export(original.module.eval(), images, tmp_path)
    card = {"attack": "pgd", "norm": "Linf", "eps": "3/255", "steps": 8, "restarts": 1, "diagnostics": False}
    expected = rbl.evaluate(original, (images, labels), **card)
    assert 0 < expected.outcomes["broken"].sum() < IMAGES
    for source in sources:
        model = rbl.load_classifier(source, normalize=original.normalization, allow_code=True)
        found = rbl.evaluate(model, (images, labels), **card)
        for column in ("clean_correct", "broken"):
            assert found.outcomes[column].tolist() == expected.outcomes[column].tolist(), source


def test_an_int8_file_is_close_to_its_network(tmp_path: Path) -> None:
    data = rbl.load_dataset("signs", limit=60, seed=3)
    original = rbl.load_classifier("zoo:signs-plain")
    mean, std = (torch.tensor(part).view(1, -1, 1, 1) for part in original.normalization)
    inputs = (data.images - mean) / std
    with warnings.catch_warnings(action="ignore"), original.evaluation_mode():
        prepared = prepare_fx(original.module, get_default_qconfig_mapping("x86"), (inputs[:2],))
        prepared(inputs)
        save_traced(tmp_path / "int8.pt", convert_fx(prepared), inputs[:2])
    int8 = rbl.load_classifier(
        f"torchscript:{tmp_path / 'int8.pt'}", normalize=original.normalization, allow_code=True
    )
    assert (int8.access, original.access) == ("scores", "gradients")
    agreement = (int8(data.images).argmax(dim=1) == original(data.images).argmax(dim=1)).float().mean()
    assert agreement >= 0.95
