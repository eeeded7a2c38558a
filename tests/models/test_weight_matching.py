"""One network out of whatever a training script saved around, before and beside it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.models import stored_tensors
from robustbench_local.models.loaded_model import LoadedModel, ModelRequest, build_with_weights
from robustbench_local.models.model_sources import load_classifier
from robustbench_local.models.weight_files import read_weights
from robustbench_local.models.weight_loading import load_weights


def network(classes: int = 5) -> nn.Module:
    parts = OrderedDict(
        conv=nn.Conv2d(1, 2, 3), norm=nn.BatchNorm2d(2), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten()
    )
    return nn.Sequential(OrderedDict(**parts, fc=nn.Linear(2, classes)))


def state(classes: int = 3, seed: int = 0) -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(value.shape, generator=chance) if value.is_floating_point() else value + seed
        for name, value in network(classes).state_dict().items()
    }


RAW, EMA = state(seed=1), state(seed=2)
BODY = {name: value for name, value in RAW.items() if not name.startswith("fc")}
HEAD = (RAW["fc.weight"], RAW["fc.bias"])
PARAMETERS = {name: value for name, value in EMA.items() if name in dict(network(3).named_parameters())}


def under(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in tensors.items()}


def load(folder: Path, content: Any, **said: Any) -> LoadedModel:
    path = folder / "file.pt"
    torch.save(content, path)
    request = ModelRequest(**said)
    return build_with_weights(network, 5, request.read(str(path)), request)


def is_raw(found: LoadedModel) -> bool:
    assert isinstance(found.model, nn.Module)
    own = found.model.state_dict()
    return own.keys() == RAW.keys() and all(torch.equal(own[name], RAW[name]) for name in RAW)


TREE = {"conv": {"weight": RAW["conv.weight"], "bias": RAW["conv.bias"]}, "fc": {}, "norm": {}}
for _name, _value in RAW.items():
    TREE[_name.partition(".")[0]][_name.partition(".")[2]] = _value


@pytest.mark.parametrize(
    "content",
    [
        under("module.", RAW),
        under("net.encoder.backbone.", RAW),
        {"state_dict": under("model._orig_mod.module.", RAW), "epoch": 3, "hyper_parameters": {"lr": 0.1}},
        {"state_dict": {"state_dict": under("module.", RAW)}},
        {**under("conv.module.", {"weight": RAW["conv.weight"], "bias": RAW["conv.bias"]}),
         **{name: value for name, value in RAW.items() if not name.startswith("conv")}},
        {**under("model.backbone.", BODY), "model.fc.weight": HEAD[0], "model.fc.bias": HEAD[1]},
        {**under("encoder.", BODY), "decoder.fc.weight": HEAD[0], "decoder.fc.bias": HEAD[1]},
        {**{name.replace("conv.", "conv.inner.net."): value for name, value in RAW.items()}},
        {"params": TREE},
        {**RAW, "norm.num_batches_tracked": 1},
        {**RAW, "norm.num_batches_tracked": torch.tensor(1.0)},
    ],
    ids=["parallel", "any words", "lightning of compiled", "twice", "in the middle", "head beside a backbone",
         "siblings", "another word in the middle", "tree", "int counter", "float counter"],
)  # fmt: skip
def test_one_set_of_weights_is_found_wherever_it_is(tmp_path: Path, content: Any) -> None:
    found = load(tmp_path, content)
    assert is_raw(found)
    assert found.num_classes == 3
    assert all("\n" not in note for note in found.notes)


@pytest.mark.parametrize(
    ("content", "first", "second"),
    [
        ({"state_dict": RAW, "state_dict_ema": EMA, "epoch": 1}, "state_dict", "state_dict_ema"),
        ({"model": RAW, "model_ema": {"module": EMA, "decay": 0.9}}, "model", "model_ema.module"),
        ({**under("student.", RAW), **under("teacher.", EMA)}, "student", "teacher"),
        ({"state_dict": {**under("net.", RAW), **under("ema.", EMA), "ema.n_averaged": torch.tensor(3)}},
         "state_dict.net", "state_dict.ema"),
        ({"folds": [RAW, EMA]}, "folds.0", "folds.1"),
    ],
    ids=["entries", "an average", "one mapping", "one mapping inside", "list"],
)  # fmt: skip
def test_two_sets_that_fit_are_listed_and_the_user_chooses(
    tmp_path: Path, content: Any, first: str, second: str
) -> None:
    with pytest.raises(ModelError, match=r"holds 2 sets of weights that fit .* entry: '") as caught:
        load(tmp_path, content)
    assert all(f"{entry!r} (9 tensors, " in str(caught.value) for entry in (first, second))
    assert is_raw(load(tmp_path, content, entry=first))
    assert not is_raw(load(tmp_path, content, entry=second))


def test_the_outermost_mapping_is_an_entry_too(tmp_path: Path) -> None:
    content = {**RAW, "ema": EMA}
    with pytest.raises(ModelError, match=r"'\.' \(9 tensors.*'ema' \(9 tensors"):
        load(tmp_path, content)
    assert is_raw(load(tmp_path, content, entry="."))
    assert not is_raw(load(tmp_path, content, entry="ema"))


def test_identical_copies_are_no_choice(tmp_path: Path) -> None:
    copies = {name: value.clone() for name, value in RAW.items()}
    assert is_raw(load(tmp_path, {"state_dict": RAW, "best": copies}))


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ({"model": RAW, "ema": {"shadow": PARAMETERS, "decay": 0.9}}, "'ema.shadow' (6 tensors): not used"),
        ({**under("model.", RAW), **under("ema.", PARAMETERS)}, "a copy of the parameters"),
        ({**under("model.", RAW),
          **under("model_ema.", {name.replace(".", ""): value for name, value in PARAMETERS.items()}),
          "model_ema.num_updates": torch.tensor(9)}, "a copy of the parameters"),
        ({"student": RAW, "teacher": {"blocks.0.weight": torch.rand(9, 9)}}, "'teacher' (1 tensors)"),
    ],
    ids=["average of parameters", "beside it", "names without dots", "another network"],
)  # fmt: skip
def test_what_does_not_fit_as_well_is_told_and_not_taken(tmp_path: Path, content: Any, word: str) -> None:
    found = load(tmp_path, content)
    assert is_raw(found)
    assert any(word in note for note in found.notes)


def test_a_network_that_wraps_what_the_file_holds_gets_it_too(tmp_path: Path) -> None:
    wrapped = nn.ModuleDict({"net": network(3)})
    torch.save({"state_dict": RAW}, tmp_path / "bare.pt")
    load_weights(wrapped, read_weights(tmp_path / "bare.pt"))
    assert torch.equal(wrapped["net"].conv.weight, RAW["conv.weight"])  # type: ignore[arg-type,union-attr]


def test_a_file_that_unfolds_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stored_tensors._MAX_VALUES == 1_000_000
    monkeypatch.setattr(stored_tensors, "_MAX_VALUES", 10_000)
    knot: dict[str, Any] = {"a": torch.rand(2)}
    knot |= {str(number): knot for number in range(9)}
    with pytest.raises(ModelError, match=r"more than 10,000 nested values"):
        load(tmp_path, knot)


def test_long_names_are_cut(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load(tmp_path, {**RAW, "x" * 100_000 + ".y": torch.rand(2, 2)})
    assert len(str(caught.value)) < 400


def test_an_optimizers_state_is_not_worth_a_line(tmp_path: Path) -> None:
    own = network()
    optimizer = torch.optim.SGD(own.parameters(), lr=0.1, momentum=0.9)
    own(torch.rand(2, 1, 4, 4)).sum().backward()
    optimizer.step()
    found = load(tmp_path, {"model": RAW, "optimizer": optimizer.state_dict(), "epoch": 7})
    assert found.notes == ["took the weights from the entry 'model' of file.pt"]


@pytest.mark.parametrize(
    "leftover",
    [
        {"n_averaged": torch.tensor(5)},
        {"criterion.weight": torch.rand(3)},
        {"loss_fn.centers": torch.rand(3, 2)},
        {"train_acc.correct": torch.tensor(3), "val_metrics.confmat": torch.zeros(3, 3)},
        {"teacher.blocks.0.weight": torch.rand(9, 9)},
    ],
)
def test_losses_metrics_and_counters_are_left_aside_and_told(
    tmp_path: Path, leftover: dict[str, Tensor]
) -> None:
    found = load(tmp_path, {**under("module.", RAW), **leftover})
    assert is_raw(found)
    assert any("ignored in" in note and next(iter(leftover)) in note for note in found.notes)


@pytest.mark.parametrize(
    "leftover",
    [
        {"attention.weight": torch.rand(3, 3)},
        {"conv.gate.weight": torch.rand(2, 2)},
        {"acc.weight": torch.rand(2, 2)},
        {"temperature": torch.tensor([2.0])},
        {"mean": torch.rand(3)},
    ],
)
def test_weights_that_have_no_place_are_never_dropped(tmp_path: Path, leftover: dict[str, Tensor]) -> None:
    with pytest.raises(ModelError, match=r"does not fit the network: 1 unexpected"):
        load(tmp_path, {**RAW, **leftover})
    with pytest.raises(ModelError, match=r"1 unexpected .* or set entry: 'state.model' if"):
        load(
            tmp_path,
            {"state": {**under("model.", RAW), **under("", {f"x{n}": v for n, v in leftover.items()})}},
        )
    assert is_raw(load(tmp_path, {**under("model.", RAW), **under("x", leftover)}, entry="model"))


def test_a_loss_inside_the_network_is_a_part_of_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"1 unexpected \(norm.loss.weight\)"):
        load(tmp_path, {**RAW, "norm.loss.weight": torch.rand(2)})


def test_a_deeper_network_does_not_pass_for_a_shallow_one(tmp_path: Path) -> None:
    deeper = {**RAW, "conv2.weight": torch.rand(2, 2, 3, 3)}
    with pytest.raises(ModelError, match=r"1 unexpected \(conv2.weight\)"):
        load(tmp_path, deeper)
    tree = {"params": {**TREE, "conv2": {"weight": torch.rand(2, 2, 3, 3)}}}
    with pytest.raises(ModelError, match=r"1 unexpected \(conv2.weight\)"):
        load(tmp_path, tree)


@pytest.mark.parametrize(
    "head",
    [
        {"fc.1.weight": HEAD[0], "fc.1.bias": HEAD[1]},
        {"fc.0.weight": HEAD[0], "fc.0.bias": HEAD[1]},
        {"classifier.1.weight": HEAD[0], "classifier.1.bias": HEAD[1]},
        {"head.fc.weight": HEAD[0], "head.fc.bias": HEAD[1]},
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.", "model.backbone."])
def test_one_linear_layer_of_another_name_is_the_head(
    tmp_path: Path, head: dict[str, Tensor], prefix: str
) -> None:
    found = load(tmp_path, under(prefix, {**BODY, **head}))
    assert is_raw(found)
    layer = next(iter(head)).removesuffix(".weight")
    told = "head." if layer == "head.fc" else f"{layer!r}, here 'fc': what precedes it"
    assert any(told in note for note in found.notes)


def test_a_head_without_a_bias_has_none(tmp_path: Path) -> None:
    found = load(tmp_path, {**BODY, "fc.1.weight": HEAD[0]})
    assert not found.model.fc.bias.any()  # type: ignore[union-attr]
    assert any("has no bias" in note for note in found.notes)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"fc.0.weight": torch.rand(4, 2), "fc.0.bias": torch.rand(4), "fc.3.weight": torch.rand(3, 4),
          "fc.3.bias": torch.rand(3)}, r"another head .*fc.0.weight \(4, 2\).*fc.3.weight \(3, 4\)"),
        ({"fc.0.weight": torch.rand(2), "fc.0.bias": torch.rand(2), "fc.1.weight": torch.rand(3, 2)},
         "another head"),
        ({"fc.1.weight": torch.rand(3, 7)}, r"another head than the network's one layer 'fc' of 2 features"),
        ({}, "has all of the network but its last layer 'fc'"),
        ({"fc.weight": torch.rand(5, 2), "fc.bias": torch.rand(5), "head.weight": torch.rand(3, 5)},
         r"1 unexpected \(head.weight\)"),
    ],
    ids=["stack", "norm before it", "other features", "none", "two heads"],
)  # fmt: skip
def test_a_head_that_would_have_to_be_guessed_is_refused(
    tmp_path: Path, head: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load(tmp_path, {**BODY, **head}, num_classes=3)
    assert "outputs" not in str(caught.value)  # nothing is said of a layer that was not read
    assert caught.value.exit_code == 3


def test_a_number_of_classes_is_compared_with_the_layer_that_was_read(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"its last layer has 3 outputs, but num_classes is 4 \(module.fc.weight"
    ):
        load(tmp_path, under("module.", RAW), num_classes=4)


@pytest.mark.parametrize("names", [("mean", "std"), ("normalize.mean", "normalize.std"), ("0.mean", "0.std")])
def test_a_normalisation_in_the_file_is_applied_by_nobody_in_silence(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    content = {**under("1.", RAW), names[0]: torch.full((1, 3, 1, 1), 0.4), names[1]: torch.full((3,), 0.2)}
    found = load(tmp_path, content)
    assert is_raw(found)
    with pytest.raises(
        ModelError, match=r"Set normalize: \{mean: \[0.4, 0.4, 0.4\], std: \[0.2, 0.2, 0.2\]\}"
    ):
        found.check_normalization(None)
    notes = list(found.notes)
    found.check_normalization(((0.4004,), (0.2,)))
    assert found.notes == notes
    found.check_normalization("none")
    assert "normalize is not the normalization in file.pt" in found.notes[-1]


def test_a_normalisation_that_does_nothing_needs_no_word(tmp_path: Path) -> None:
    found = load(tmp_path, {**under("1.", RAW), "0.mean": torch.zeros(3), "0.std": torch.ones(3)})
    found.check_normalization(None)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_weights_that_are_no_floats_are_not_taken_for_some(tmp_path: Path, dtype: torch.dtype) -> None:
    content = {name: value.to(dtype) if name == "fc.weight" else value for name, value in RAW.items()}
    with pytest.raises(ModelError, match=r"1 weights that are not floating.*fc\.weight") as caught:
        load(tmp_path, content)
    assert str(dtype).removeprefix("torch.") in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_weights_of_any_floating_type_are_taken(tmp_path: Path, dtype: torch.dtype) -> None:
    content = {name: value.to(dtype) if name == "fc.weight" else value for name, value in RAW.items()}
    found = load(tmp_path, content)
    assert torch.equal(found.model.state_dict()["fc.weight"], content["fc.weight"].float())


def test_tied_weights_may_be_stored_once_but_not_twice_with_two_values(tmp_path: Path) -> None:
    tied = nn.ModuleDict({"first": nn.Linear(2, 2), "second": nn.Linear(2, 2)})
    tied["second"].weight = tied["first"].weight
    whole = {name: value.clone() for name, value in tied.state_dict().items()}
    once = {name: value for name, value in whole.items() if name != "second.weight"}
    save_file(once, tmp_path / "once.safetensors", {"second.weight": "first.weight", "format": "pt"})
    assert load_weights(tied, read_weights(tmp_path / "once.safetensors")) == []
    save_file({**whole, "second.weight": torch.rand(2, 2)}, tmp_path / "two.safetensors")
    with pytest.raises(ModelError, match=r"first.weight and second.weight are one tensor in the network"):
        load_weights(tied, read_weights(tmp_path / "two.safetensors"))


def test_an_entry_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no entry 'emma' with tensors, only ema, model"):
        load(tmp_path, {"model": RAW, "ema": EMA}, entry="emma")
    with pytest.raises(ConfigError, match="there is no weights file with an entry 'x'"):
        load_classifier("torchvision:squeezenet1_1", entry="x")


def test_a_path_that_two_mappings_share_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"names 'a.b' twice"):
        load(tmp_path, {"a.b": torch.rand(2), "a": {"b": torch.rand(2)}})


def test_a_grid_says_which_entry(tmp_path: Path) -> None:
    from robustbench_local.models.networks.network_registry import build_network

    one, other = build_network("mnist_fast").state_dict(), build_network("mnist_fast").state_dict()
    torch.save({"raw": {k: v + 1 for k, v in one.items()}, "ema": other}, tmp_path / "two.pt")
    found = load_classifier("checkpoint:two.pt", architecture="mnist_fast", entry="ema", base_folder=tmp_path)
    assert torch.equal(next(iter(found.module.state_dict().values())), next(iter(other.values())))  # type: ignore[union-attr]
    assert found.provenance["entry"] == "ema"


def test_code_with_another_number_of_classes_takes_the_files_last_layer(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(4, 10))\n"
    )
    save_file({"1.weight": torch.rand(3, 4), "1.bias": torch.rand(3)}, tmp_path / "three.safetensors")
    options: Any = {"weights": "three.safetensors", "base_folder": tmp_path, "allow_code": True}
    found = load_classifier("python:net.py:net", num_classes=3, **options)
    assert found(torch.rand(1, 1, 2, 2)).shape == (1, 3)
    with pytest.raises(ModelError, match="2 of another shape"):
        load_classifier("python:net.py:net", num_classes=4, **options)
