from __future__ import annotations

import random
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from robustbench_local.errors import ModelError, RefusedError
from robustbench_local.models.networks.network_registry import build_network
from robustbench_local.models.weight_files import read_weights
from robustbench_local.models.weight_loading import load_weights


def network() -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 3), norm=nn.BatchNorm2d(2)))


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_every_kind_of_file_gives_the_same_tensors(tmp_path: Path, kind: str) -> None:
    state, path = network().state_dict(), tmp_path / "weights"
    if kind == "safetensors":  # found by its content, without its suffix
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    other = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 3), norm=nn.BatchNorm2d(2)))
    assert load_weights(other, read_weights(path)) == []
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net"])
def test_a_training_scripts_wrapper_is_opened_with_a_note(tmp_path: Path, key: str) -> None:
    path = tmp_path / "full.pt"
    torch.save({key: network().state_dict(), "epoch": 9, "optimizer": {"lr": 0.1}}, path)
    other = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 3), norm=nn.BatchNorm2d(2)))
    notes = load_weights(other, read_weights(path))
    assert all(torch.equal(value, network().state_dict()[name]) for name, value in other.state_dict().items())
    assert any(repr(key) in note for note in notes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "lr": 0.1}, "holds no state_dict; it has epoch, lr"),
        ({}, "it has nothing"),
        ([torch.zeros(2)], "holds a list"),
        (torch.zeros(2), "holds a Tensor"),
        ({"state_dict": {}}, "it has state_dict"),
    ],
)
def test_what_is_no_state_dict_says_what_it_is(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(ModelError, match=message):
        read_weights(tmp_path / "odd.pt")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module.model."])
def test_a_wrappers_prefix_is_taken_off_with_a_note(tmp_path: Path, prefix: str) -> None:
    state = {prefix + name: value for name, value in network().state_dict().items()}
    torch.save(state, tmp_path / "parallel.pt")
    notes = load_weights(network(), read_weights(tmp_path / "parallel.pt"))
    assert any("prefix" in note for note in notes)


def test_a_prefix_that_belongs_to_the_network_stays(tmp_path: Path) -> None:
    wrapped = nn.ModuleDict({"model": network()})
    torch.save(wrapped.state_dict(), tmp_path / "own.pt")
    assert load_weights(wrapped, read_weights(tmp_path / "own.pt")) == []


def test_batch_norms_counter_may_be_missing_or_have_one_entry(tmp_path: Path) -> None:
    state = {name: value for name, value in network().state_dict().items() if "tracked" not in name}
    save_file(state, tmp_path / "old.safetensors")
    load_weights(network(), read_weights(tmp_path / "old.safetensors"))
    state["norm.num_batches_tracked"] = torch.tensor([5])
    save_file(state, tmp_path / "one.safetensors")
    other = network()
    load_weights(other, read_weights(tmp_path / "one.safetensors"))
    assert int(other.norm.num_batches_tracked) == 5  # type: ignore[union-attr,arg-type]


def test_half_precision_files_are_noted(tmp_path: Path) -> None:
    save_file(network().half().state_dict(), tmp_path / "half.safetensors")
    other = network()
    assert load_weights(other, read_weights(tmp_path / "half.safetensors")) == [
        "weights are stored as float16"
    ]
    assert other.conv.weight.dtype == torch.float32  # type: ignore[union-attr]


def test_an_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a folder, not a file"):
        read_weights(tmp_path)


def test_a_trusted_pickle_that_cannot_be_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "lost.pt"
    path.write_bytes(b"\x80\x02cno_such_module\nThing\n.")
    hash_ = read_hash(path)
    with pytest.raises(ModelError, match="cannot be unpickled"):
        read_weights(path, trust_pickle=hash_)


def read_hash(path: Path) -> str:
    with pytest.raises(RefusedError) as caught:
        read_weights(path, trust_pickle=f"sha256:{'0' * 64}")
    return str(caught.value).partition("this file is ")[2].partition(".")[0]


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_damage_never_escapes_as_another_error(tmp_path: Path, kind: str) -> None:
    """Whatever bytes are broken, the answer is weights or one of our two errors."""
    state, path = build_network("mnist_fast").state_dict(), tmp_path / "broken"
    if kind == "safetensors":
        path.write_bytes(save(state))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    whole, chance = path.read_bytes(), random.Random(kind)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 4, 64])):
            data[chance.randrange(min(len(data), 4096))] = chance.randrange(256)
        path.write_bytes(data[: chance.choice([len(data), chance.randrange(len(data))])])
        try:
            load_weights(build_network("mnist_fast"), read_weights(path))
        except (ModelError, RefusedError) as error:
            assert "\n" not in str(error)  # noqa: PT017  either outcome is right, this is the form of one
