"""Devices without float64, and copies to a GPU: the same values, without such a device here."""

from __future__ import annotations

import pytest
import torch

from robustbench_local import randomness
from robustbench_local.classifier.device import move_batch
from robustbench_local.double_precision import lacks_float64, to_float64
from robustbench_local.threats import eight_bit
from robustbench_local.threats.threat_model import ThreatModel


class DeviceTensor:
    """A tensor that says it is on another device, and refuses float64 there."""

    def __init__(self, values: torch.Tensor, device: str) -> None:
        self.values, self.device = values, torch.device(device)
        self.calls: list[object] = []

    def cpu(self) -> torch.Tensor:
        return self.values

    def double(self) -> torch.Tensor:
        if self.device.type == "mps":
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return self.values.double()

    def pin_memory(self) -> DeviceTensor:
        self.calls.append("pinned")
        return self

    def to(self, device: torch.device, *, non_blocking: bool = False) -> str:
        self.calls.append((str(device), non_blocking))
        return "moved"


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_values_become_float64_where_the_device_has_it_else_on_the_cpu(device):
    values = torch.rand(3)
    assert lacks_float64(torch.device(device)) == (device == "mps")
    assert torch.equal(to_float64(DeviceTensor(values, device)), values.double())


@pytest.mark.parametrize(
    ("source", "target", "calls"),
    [
        ("cpu", "cpu", [("cpu", False)]),
        ("cpu", "mps", [("mps", False)]),
        ("cuda", "cuda", [("cuda", False)]),
        ("cuda", "cpu", [("cpu", False)]),
        ("cpu", "cuda:0", ["pinned", ("cuda:0", True)]),
    ],
)
def test_only_a_batch_for_a_gpu_travels_from_pinned_memory(source, target, calls):
    batch = DeviceTensor(torch.rand(2), source)
    assert move_batch(batch, torch.device(target)) == "moved"
    assert batch.calls == calls


@pytest.mark.parametrize("norm", ["Linf", "L2", "L0"])
def test_rounding_and_keys_are_the_same_on_a_device_without_float64(norm, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    originals = torch.rand(4, 3, 4, 4, generator=generator)
    candidates = (originals + 0.01 * torch.randn(originals.shape, generator=generator)).clamp(0, 1)
    threat = ThreatModel(norm=norm, eps=4 if norm == "L0" else 0.1)
    masks = torch.ones(4, 1, 4, 4, dtype=torch.bool)

    def compute():
        return (
            *eight_bit.round_to_8bit(candidates, originals, threat),
            eight_bit.has_8bit_choice(originals, threat),
            eight_bit.has_8bit_choice(originals, threat, masks),
            randomness.compute_point_keys(candidates, 3),
        )

    expected, asked = compute(), []

    def answer_once(_device):  # on the CPU, where it is sent to, there is float64
        asked.append(1)
        return len(asked) % 2 == 1

    monkeypatch.setattr(eight_bit, "lacks_float64", answer_once)
    for one, other in zip(compute(), expected, strict=True):
        assert torch.equal(one, other)
    assert len(asked) == 6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_batch_arrives_on_a_gpu_before_it_is_used():
    batch = torch.rand(64, 3, 224, 224)
    moved = move_batch(batch, torch.device("cuda"))
    assert torch.equal((moved * 2).cpu(), batch * 2)
